//! What the cores can do: our own product kernel on data that stays in the first-level cache.
//!
//! Invariant: the figure is measured here and now, by the kernels that models run on; a layer's share of it is a share
//! of what these kernels reach at best, not of a data sheet.
//! Not here: what models take.

use crate::kernels::{Gemm, GemmSpec, Isa, PackError, Requant, Rows, SLACK, Source, TileMut, WeightView};
use crate::sys::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Rows, products for each value, columns: inputs, weights and output take at most 31 KiB together. Which suits a CPU's
/// kernel best shows when they are tried.
const TILES: [[usize; 3]; 3] = [[48, 256, 64], [24, 512, 32], [24, 320, 64]];
/// Products between two looks at the clock: some tens of µs.
const BATCH: u64 = 10;
/// For each tile. Its best batch counts: others were interrupted.
const TIME: Duration = Duration::from_millis(20);

/// Multiplications of int8 values a second, of so many threads together, each on a tile of its own.
///
/// # Errors
/// If this CPU lacks `isa`.
pub fn peak(isa: Isa, threads: usize, clock: &Arc<dyn Clock>) -> Result<f64, PackError> {
    // Whether it can be had at all, before threads ask for it.
    one(isa, TILES[0], clock, Duration::ZERO)?;
    let total = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let rates = TILES.map(|tile| one(isa, tile, clock, TIME).unwrap_or(0.0));
                total.fetch_add(rates.into_iter().fold(0.0, f64::max) as u64, Ordering::Relaxed);
            });
        }
    });
    Ok(total.into_inner() as f64)
}

fn one(isa: Isa, [rows, depth, columns]: [usize; 3], clock: &Arc<dyn Clock>, time: Duration) -> Result<f64, PackError> {
    let weights: Vec<i8> = (0..depth * columns).map(|i| (i % 251) as u8 as i8).collect();
    let requant = Requant { multipliers: &[1e-4], zero_point: 0, lo: i8::MIN, hi: i8::MAX, table: None };
    let spec = GemmSpec {
        weights: WeightView::matrix(&weights, depth, columns)?,
        weight_zero_points: &[],
        bias: &[],
        input_zero_point: 0,
        requant,
    };
    let gemm = Gemm::new(isa, isa.storage(), &spec)?;
    let data: Vec<u8> = (0..rows * depth + SLACK).map(|i| (i % 241) as u8).collect();
    let source = Source { data: &data, rows: Rows::Direct { stride: depth } };
    let mut output = vec![0_u8; rows * columns];
    let mut batch = || {
        for _ in 0..BATCH {
            gemm.run(&source, &mut TileMut::new(&mut output, rows, columns, columns));
        }
    };
    let (start, mut best) = (clock.monotonic(), Duration::MAX);
    loop {
        let began = clock.monotonic();
        batch();
        let ended = clock.monotonic();
        best = best.min(ended.saturating_sub(began)).max(Duration::from_nanos(1));
        if ended.saturating_sub(start) >= time {
            break;
        }
    }
    let products = (rows * depth * columns) as u64 * BATCH;
    Ok(products as f64 / best.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::RealClock;

    #[test]
    fn every_instruction_set_of_this_cpu_has_a_peak_and_others_have_none() {
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        for isa in Isa::ALL {
            match isa.is_available() {
                true => assert!(peak(isa, 1, &clock).unwrap() > 1e6, "{isa}"),
                false => assert!(peak(isa, 1, &clock).is_err(), "{isa}"),
            }
        }
    }
}
