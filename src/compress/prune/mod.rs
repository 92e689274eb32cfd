//! Pruning.
pub mod follow;
pub mod groups;
pub mod ids;
pub mod remove;
#[cfg(test)]
mod tests;
