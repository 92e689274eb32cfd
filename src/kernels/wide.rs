#![allow(unsafe_code, reason = "calls microkernels by pointers whose reach was checked")]
//! Products that end in floats or in accumulators, and bytes that are made one by one.
//!
//! Invariant: what `settle` gives, whoever computes it: `f32(acc)·(scale·multiplier) + bias`, each rounded, then the bounds.
//! Tiers that can do so make floats of accumulators in registers; for others, accumulators are kept a few rows at a time.

use super::elementwise::look_up_in_place;
use super::float::settle;
use super::gemm::{Floats, Gemm, MAX_COLUMNS, MAX_ROWS, Source, To};
use super::tile::TileMut;
use super::walk::Walk;

/// What is known only when a dynamically quantized input is: `f32(acc)·(scale·multiplier) + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Dynamic<'a> {
    pub input_zero_point: i8,
    pub scale: f32,
    /// None or one for each output channel, added last.
    pub bias: &'a [f32],
    /// Least and greatest value; infinities where there is no bound.
    pub bounds: [f32; 2],
}

impl Gemm {
    /// As [`run`](Self::run), value by value.
    pub(super) fn run_slowly(&self, source: &Source<'_>, output: &mut TileMut<'_, u8>) {
        let Self { packed, finish, table, .. } = self;
        self.accumulate(source, self.input_zero_point, output, |column, accumulators, values| {
            let sums = accumulators.iter().zip(&packed.multipliers[column..]);
            values.iter_mut().zip(sums).for_each(|(value, (&acc, &m))| *value = finish.byte(acc, m));
            if let Some(table) = table {
                look_up_in_place(table, values);
            }
        });
    }

    /// Computes one tile of a dynamically quantized product in f32.
    ///
    /// # Panics
    /// As [`run`](Self::run), and if the bias is neither empty nor one for each output channel.
    pub fn run_dynamic(&self, source: &Source<'_>, dynamic: &Dynamic<'_>, output: &mut TileMut<'_, f32>) {
        let (n, bias) = (self.packed.n, dynamic.bias);
        assert!(bias.is_empty() || bias.len() == n, "bias of {} values for {n} channels", bias.len());
        if self.tier.settles {
            return self.run_settled(source, dynamic, output);
        }
        let (multipliers, here) = (&self.packed.multipliers, self.here);
        self.accumulate(source, dynamic.input_zero_point, output, |column, accumulators, values| {
            let multipliers = &multipliers[column..][..values.len()];
            let bias = if bias.is_empty() { bias } else { &bias[column..][..values.len()] };
            settle(here, dynamic, accumulators, multipliers, bias, values);
        });
    }

    fn run_settled(&self, source: &Source<'_>, dynamic: &Dynamic<'_>, output: &mut TileMut<'_, f32>) {
        let mut walk = Walk::new(self, source, output.rows(), output.columns(), usize::MAX);
        walk.shift = i32::from(dynamic.input_zero_point) - i32::from(self.input_zero_point);
        let Dynamic { scale, bias, bounds, .. } = *dynamic;
        while let Some(step) = walk.next_step() {
            // Both corners are in the tile.
            output.pointer(step.row + step.rows - 1, step.column + step.columns - 1);
            let floats = Floats {
                output: output.pointer(step.row, step.column),
                row_stride: output.row_stride(),
                scale,
                bias: if bias.is_empty() { std::ptr::null() } else { bias[step.column..].as_ptr() },
                bounds,
            };
            // SAFETY: rows and columns of the step are the tile's; the bias is empty, or one for each channel.
            unsafe { self.call(&mut walk, &step, To::Floats(&floats)) };
        }
    }

    /// Computes one tile of accumulators: Σ(a − za)(w − zw) + b.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_i32(&self, source: &Source<'_>, input_zero_point: i8, output: &mut TileMut<'_, i32>) {
        self.accumulate(source, input_zero_point, output, |_, accumulators, values| {
            values.copy_from_slice(&accumulators[..values.len()]);
        });
    }

    fn accumulate<T>(
        &self,
        source: &Source<'_>,
        input_zero_point: i8,
        output: &mut TileMut<'_, T>,
        finish: impl Fn(usize, &[i32], &mut [T]),
    ) {
        let mut walk = Walk::new(self, source, output.rows(), output.columns(), MAX_ROWS);
        walk.shift = i32::from(input_zero_point) - i32::from(self.input_zero_point);
        let first = output.columns().start;
        let mut accumulators = [0_i32; MAX_ROWS * MAX_COLUMNS];
        while let Some(step) = walk.next_step() {
            // SAFETY: the walk's steps are at most MAX_ROWS by MAX_COLUMNS.
            unsafe { self.call(&mut walk, &step, To::Accumulators(accumulators.as_mut_ptr())) };
            for r in 0..step.rows {
                let values = &mut output.row(step.row + r)[step.column - first..][..step.columns];
                finish(step.column, &accumulators[r * MAX_COLUMNS..][..MAX_COLUMNS], values);
            }
        }
    }
}
