//! Programs made by hand.
