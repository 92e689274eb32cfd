//! How much memory training takes, before it begins.
//!
//! Invariant: what is refused says how much it would take, how much there is, and what to change.

use super::program::Program;
use crate::compress::Error;

/// Bytes of a value while its step lasts: itself, its gradient, and what an operator keeps of it or copies on the way.
const BYTES: u64 = 3 * 4;

/// Bytes of a weight: itself, its gradient, two means of the optimiser, and the best so far.
const WEIGHT: u64 = 5 * 4;

/// Of a step on so many samples.
pub fn estimate(program: &Program, batch: usize) -> u64 {
    let network = program.network();
    let facts = network.facts();
    let size = |value| facts.shape(value).map_or(0, |shape| shape.iter().product::<usize>() as u64);
    let nodes = network.graph().nodes();
    let values: u64 = nodes.flat_map(|(_, node)| node.outputs.iter().flatten().copied()).map(size).sum();
    let weights: u64 = program.variables().values().map(|variable| variable.elem_count() as u64).sum();
    values.saturating_mul(batch as u64).saturating_mul(BYTES).saturating_add(weights.saturating_mul(WEIGHT))
}

/// # Errors
/// When that is more than there is.
pub fn check(needed: u64, available: u64, batch: usize) -> Result<(), Error> {
    if needed <= available {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(Error::unfit(format!(
        "training with a batch of {batch} would take about {} MiB, and {} MiB are free: state a smaller --batch, or close other \
         programs",
        mib(needed),
        mib(available)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_told_with_both_numbers_and_what_to_do() {
        assert!(check(1 << 30, 1 << 30, 32).is_ok());
        let told = check((1 << 30) + 1, 1 << 29, 32).unwrap_err().to_string();
        assert!(told.contains("1025 MiB") && told.contains("512 MiB") && told.contains("--batch"), "{told}");
        assert!(crate::sys::available_memory() > 1 << 20);
    }
}
