//! Products of two activations: the right side is packed as weights are, at each run.

use super::super::op::Finish;
use super::super::program::Type;
use super::Scratch;
use super::kernel::{At, Built, Kernel, UNBOUNDED};
use super::layout::Layout;
use super::run::Scope;
use crate::kernels::{Dynamic, Gemm, PackError, Requant, Rows, Source, TileMut, WeightView};

/// `[.., M, K]` times `[.., K, N]`.
#[derive(Debug)]
pub(super) struct Product {
    /// Its right side is of whoever runs it.
    pub gemm: Gemm,
    m: usize,
    k: usize,
    n: usize,
    /// By matrix of the output: which of the left and of the right.
    matrices: Vec<[usize; 2]>,
    zero_point: i8,
}

impl Product {
    /// Values of a right side.
    pub fn right(&self) -> usize {
        self.k * self.n
    }
}

impl At<'_> {
    pub(super) fn mat_mul(&self, finish: &Finish, products: &mut Vec<Product>) -> Built {
        let Some(product) = self.product_of_two(finish)? else { return Ok(None) };
        products.push(product);
        Ok(Some(Kernel::MatMul(products.len() - 1)))
    }

    fn product_of_two(&self, finish: &Finish) -> Result<Option<Product>, PackError> {
        let plain = self.from.iter().chain([&self.to]).all(|&layout| layout == Layout::Plain);
        let (Some(a), Some(b)) = (Self::params(self.inputs[0]), Self::params(self.inputs[1])) else { return Ok(None) };
        let (&[.., m, k], &[.., k2, n]) = (self.inputs[0].shape.as_slice(), self.inputs[1].shape.as_slice()) else {
            return Ok(None);
        };
        if !plain || k != k2 || self.output.shape.len() < 2 {
            return Ok(None);
        }
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
        let gemm = Gemm::of_activations(self.isa, self.storage, [k, n], zero_points, &requant)?;
        Ok(Some(Product { gemm, m, k, n, matrices: self.matrices(), zero_point: a.zero_point }))
    }

    /// Leading axes broadcast.
    fn matrices(&self) -> Vec<[usize; 2]> {
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
        (0..output.iter().product()).map(|index| [0, 1].map(|i| place(&operands[i], index))).collect()
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
        let Product { m, k, n, .. } = *product;
        let (left, right) = (self.bytes(self.stage.inputs[0]), self.values(self.stage.inputs[1]));
        let gemm = &mut scratch.products[number];
        let storage = self.plan.isa.storage();
        let mut packed = None;
        for (&[a, b], output) in product.matrices.iter().zip(output.chunks_exact_mut(m * n)) {
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
}
