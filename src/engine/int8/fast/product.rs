//! Products of two activations, of which the int8 right side is packed as weights are, at each run; and of floats.

use super::super::op::Finish;
use super::super::program::Type;
use super::Scratch;
use super::kernel::{At, Built, Kernel, UNBOUNDED};
use super::run::Scope;
use crate::kernels::{Dynamic, FloatProduct, Gemm, PackError, Requant, Rows, Source, TileMut, WeightView};

/// `[.., M, K]` times `[.., K, N]`.
#[derive(Debug)]
pub(super) struct Product {
    /// Its right side is of whoever runs it.
    pub gemm: Gemm,
    matrices: Matrices,
    zero_point: i8,
}

/// Matrices `[m][k]` times `[k][n]`.
#[derive(Debug)]
pub(super) struct Matrices {
    m: usize,
    k: usize,
    n: usize,
    /// By matrix of the output: which of the left and of the right.
    pairs: Vec<[usize; 2]>,
}

impl Product {
    /// Values of a right side.
    pub fn right(&self) -> usize {
        self.matrices.k * self.matrices.n
    }
}

impl At<'_> {
    pub(super) fn mat_mul(&self, finish: &Finish, products: &mut Vec<Product>) -> Built {
        let Some(product) = self.product_of_two(finish)? else { return Ok(None) };
        products.push(product);
        Ok(Some(Kernel::MatMul(products.len() - 1)))
    }

    fn product_of_two(&self, finish: &Finish) -> Result<Option<Product>, PackError> {
        let (Some(a), Some(b)) = (Self::params(self.inputs[0]), Self::params(self.inputs[1])) else { return Ok(None) };
        let Some(matrices) = self.matrices() else { return Ok(None) };
        let table = self.table(finish);
        let requant = match finish {
            Finish::Requantize { .. } => self.requant(finish, table.as_ref()),
            Finish::Float { scales, bias } if bias.is_empty() && self.output.ty == Type::F32 => {
                Some(Requant { multipliers: scales, zero_point: 0, lo: i8::MIN, hi: i8::MAX, table: None })
            }
            Finish::Float { .. } | Finish::Accumulator => None,
        };
        let Some(requant) = requant else { return Ok(None) };
        let zero_points = [a.zero_point, b.zero_point];
        let gemm = Gemm::of_activations(self.isa, self.storage, [matrices.k, matrices.n], zero_points, &requant)?;
        Ok(Some(Product { gemm, matrices, zero_point: a.zero_point }))
    }

    pub(super) fn float_mat_mul(&self) -> Built {
        let Some(matrices) = self.matrices() else { return Ok(None) };
        let product = FloatProduct::new(self.isa, [matrices.k, matrices.n])?;
        Ok(Some(Kernel::FloatMatMul { product, matrices }))
    }

    /// Leading axes broadcast.
    fn matrices(&self) -> Option<Matrices> {
        let (&[.., m, k], &[.., k2, n]) = (self.inputs[0].shape.as_slice(), self.inputs[1].shape.as_slice()) else {
            return None;
        };
        if !self.is_plain() || k != k2 || self.output.shape.len() < 2 {
            return None;
        }
        let leading = |shape: &[usize]| shape[..shape.len() - 2].to_vec();
        let output = leading(&self.output.shape);
        let operands = [0, 1].map(|i| leading(&self.inputs[i].shape));
        let place = |operand: &[usize], mut index: usize| {
            let (mut at, mut stride) = (0, 1);
            for (i, &size) in output.iter().rev().enumerate() {
                let own = operand.len().checked_sub(i + 1).map_or(1, |axis| operand[axis]);
                at += if own == 1 { 0 } else { index % size * stride };
                stride *= own;
                index /= size;
            }
            at
        };
        let pairs = (0..output.iter().product()).map(|index| [0, 1].map(|i| place(&operands[i], index))).collect();
        Some(Matrices { m, k, n, pairs })
    }
}

impl Scope<'_> {
    pub(super) fn mat_mul(&self, number: usize, scratch: &mut Scratch, output: &mut [u8]) {
        self.matrices(number, scratch, output, |gemm, source, tile| gemm.run(source, tile));
    }

    pub(super) fn mat_mul_float(&self, number: usize, scratch: &mut Scratch, output: &mut [f32]) {
        let by = Dynamic {
            input_zero_point: self.plan.products[number].zero_point,
            scale: 1.0,
            bias: &[],
            bounds: UNBOUNDED,
        };
        self.matrices(number, scratch, output, |gemm, source, tile| gemm.run_dynamic(source, &by, tile));
    }

    fn matrices<T: Send>(
        &self,
        number: usize,
        scratch: &mut Scratch,
        output: &mut [T],
        run: impl Fn(&Gemm, &Source<'_>, &mut TileMut<'_, T>) + Sync,
    ) {
        let product = &self.plan.products[number];
        let Matrices { m, k, n, ref pairs } = product.matrices;
        let (left, right) = (self.bytes(self.stage.inputs[0]), self.values(self.stage.inputs[1]));
        let gemm = &mut scratch.products[number];
        let storage = self.plan.isa.storage();
        let mut packed = None;
        for (&[a, b], output) in pairs.iter().zip(output.chunks_exact_mut(m * n)) {
            if packed != Some(b) {
                let right = &right[b * k * n..][..k * n];
                if let Ok(view) = WeightView::stored(right, storage, [n, k], [1, n]) {
                    gemm.repack(&view);
                }
                packed = Some(b);
            }
            let source = Source { data: &left[a * m * k..], rows: Rows::Direct { stride: k } };
            let steps = [gemm.row_step(), gemm.column_step()];
            self.share(TileMut::new(output, m, n, n), steps, k, |tile| run(gemm, &source, tile));
        }
    }

    pub(super) fn float_mat_mul(&self, product: &FloatProduct, matrices: &Matrices, output: &mut [f32]) {
        let [left, right] = [0, 1].map(|i| self.floats(self.stage.inputs[i]));
        let Matrices { m, k, n, ref pairs } = *matrices;
        let run = |[a, b]: [usize; 2], tile: &mut TileMut<'_, f32>| {
            product.run(&left[a * m * k..], &right[b * k * n..], tile);
        };
        if let [pair] = pairs.as_slice() {
            return self.share(TileMut::new(output, m, n, n), product.steps(), FLOAT * k, |tile| run(*pair, tile));
        }
        // Each matrix is a row: small ones are not worth being parted.
        self.share(TileMut::new(output, pairs.len(), m * n, m * n), [1, m * n], FLOAT * k, |tile| {
            for number in tile.rows() {
                run(pairs[number], &mut TileMut::new(tile.row(number), m, n, n));
            }
        });
    }
}

/// A product of floats takes as long as so many of int8.
pub(super) const FLOAT: usize = 4;
