//! How far sums may reach once they are multiplied, which says what kernels may take for granted of them.
//!
//! Invariant: reaches hold for any input; they come from [`check_reach`](super::pack::check_reach).

/// Whether sums that reach so far, times their multipliers, are numbers that 32 bits hold. They are in any model that
/// makes sense: others would be bounds alone.
pub(super) fn converts(reaches: &[i64], multipliers: &[f32]) -> bool {
    stay_below(1 << 30, reaches, multipliers)
}

/// Whether they are numbers that 16 bits hold, and hold still when a zero point is added.
pub(super) fn fits_words(reaches: &[i64], multipliers: &[f32]) -> bool {
    stay_below(32_000, reaches, multipliers)
}

fn stay_below(most: i32, reaches: &[i64], multipliers: &[f32]) -> bool {
    reaches.iter().zip(multipliers).all(|(&reach, &m)| reach as f64 * f64::from(m.abs()) < f64::from(most))
}
