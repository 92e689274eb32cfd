//! Operators that take one value of each operand for one of the output, and Softmax.

use super::super::op::{Add, Mul, Softmax};
use super::super::rows::{self, RowFunction};
use super::kernel::{At, Built, Kernel};
use super::run::Scope;
use crate::kernels::{self, BinarySpec, TileMut};

/// Int8 and int8 to int8.
#[derive(Debug)]
pub(super) enum Pointwise {
    Add(kernels::Add),
    Mul(kernels::Mul),
}

/// How two operands meet: rows of the output, in each of which an operand goes along or stands still.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broadcast {
    /// Axes of rows, outermost first: size, and how far either operand moves.
    outer: Vec<[usize; 3]>,
    inner: usize,
    /// Whether an operand has one value for the whole of a row.
    still: [bool; 2],
}

impl Broadcast {
    /// Axes in memory, outermost first: size, and how far either operand moves.
    fn new(axes: Vec<[usize; 3]>) -> Option<Self> {
        let mut merged: Vec<[usize; 3]> = vec![[1, 0, 0]];
        for axis in axes.into_iter().filter(|axis| axis[0] != 1).rev() {
            let last = merged.len() - 1;
            let [size, a, b] = merged[last];
            let follows = |stride: usize, next: usize| next == stride * size;
            if size == 1 {
                merged[last] = axis;
            } else if follows(a, axis[1]) && follows(b, axis[2]) {
                merged[last] = [size * axis[0], a, b];
            } else {
                merged.push(axis);
            }
        }
        let [inner, a, b] = merged.remove(0);
        merged.reverse();
        // An operand that moves by more than one along a row is none of these.
        let fits = inner == 1 || (a <= 1 && b <= 1);
        fits.then_some(Self { outer: merged, inner, still: [a == 0, b == 0] })
    }

    fn rows(&self) -> usize {
        self.outer.iter().map(|axis| axis[0]).product()
    }

    /// Where a row's operands begin.
    fn starts(&self, mut row: usize) -> [usize; 2] {
        let mut starts = [0; 2];
        for &[size, a, b] in self.outer.iter().rev() {
            let at = row % size;
            row /= size;
            starts = [starts[0] + at * a, starts[1] + at * b];
        }
        starts
    }
}

impl At<'_> {
    /// How far an operand moves along each axis of the output, in the output's order in memory.
    fn moves_along(&self, input: usize) -> Vec<usize> {
        let (shape, layout) = (&self.inputs[input].shape, self.from[input]);
        let rank = self.output.shape.len();
        let mut strides = vec![0; rank];
        let mut stride = 1;
        for axis in layout.axes(shape.len()).into_iter().rev() {
            if shape[axis] != 1 {
                strides[rank - shape.len() + axis] = stride;
            }
            stride *= shape[axis];
        }
        self.to.axes(rank).into_iter().map(|axis| strides[axis]).collect()
    }

    pub(super) fn broadcast(&self) -> Option<Broadcast> {
        let rank = self.output.shape.len();
        if self.inputs.len() != 2 || self.inputs.iter().any(|input| input.shape.len() > rank) {
            return None;
        }
        let (a, b) = (self.moves_along(0), self.moves_along(1));
        let sizes = self.to.sizes(&self.output.shape);
        Broadcast::new(sizes.into_iter().zip(a.into_iter().zip(b)).map(|(size, (a, b))| [size, a, b]).collect())
    }

    pub(super) fn add(&self, add: &Add) -> Built {
        let Some(by) = self.broadcast() else { return Ok(None) };
        let kernel = kernels::Add::by(self.isa, self.storage, [add.ra, add.rb, add.c], [add.low, add.high])?;
        Ok(Some(Kernel::Binary { kernel: Pointwise::Add(kernel), by }))
    }

    pub(super) fn mul(&self, mul: &Mul) -> Built {
        let (Some(a), Some(b)) = (Self::quantization(self.inputs[0]), Self::quantization(self.inputs[1])) else {
            return Ok(None);
        };
        let (Some(output), Some(by)) = (Self::quantization(self.output), self.broadcast()) else { return Ok(None) };
        let spec = BinarySpec { a, b, output, lo: mul.low, hi: mul.high };
        let kernel = Pointwise::Mul(kernels::Mul::new(self.isa, self.storage, &spec)?);
        Ok(Some(Kernel::Binary { kernel, by }))
    }

    /// Along what lies innermost in memory.
    pub(super) fn softmax(&self, softmax: &Softmax) -> Built {
        let Some(output) = Self::quantization(self.output) else { return Ok(None) };
        let innermost = self.to.axes(self.output.shape.len()).last() == Some(&softmax.axis);
        if !innermost || !self.lies_alike() {
            return Ok(None);
        }
        let length = self.output.shape[softmax.axis];
        let softmax = kernels::Softmax::new(self.isa, self.storage, &softmax.exponentials, output)?;
        Ok(Some(Kernel::Softmax { softmax: Box::new(softmax), length }))
    }
}

/// Values of an operand that stands still are repeated as often as this.
const REPEATED: usize = 256;

impl Scope<'_> {
    pub(super) fn binary(&self, kernel: &Pointwise, by: &Broadcast, output: &mut [u8]) {
        let (a, b) = (self.values(self.stage.inputs[0]), self.values(self.stage.inputs[1]));
        match kernel {
            Pointwise::Add(add) => self.broadcast(by, a, b, output, |a, b, to| add.run(a, b, to)),
            Pointwise::Mul(mul) => self.broadcast(by, a, b, output, |a, b, to| mul.run(a, b, to)),
        }
    }

    /// Calls with equally long pieces of both operands and the output.
    pub(super) fn broadcast<T: Copy + Send + Sync>(
        &self,
        by: &Broadcast,
        a: &[T],
        b: &[T],
        output: &mut [T],
        of: impl Fn(&[T], &[T], &mut [T]) + Sync,
    ) {
        self.share(TileMut::new(output, by.rows(), by.inner, by.inner), [1, 64], 16, |tile| {
            for row in tile.rows() {
                let (starts, columns) = (by.starts(row), tile.columns());
                pieces([a, b], starts, by.still, columns.start, tile.row(row), &of);
            }
        });
    }

    pub(super) fn softmax(&self, softmax: &kernels::Softmax, length: usize, output: &mut [u8]) {
        let from = self.values(self.stage.inputs[0]);
        let rows = output.len() / length.max(1);
        self.share(TileMut::new(output, rows, length, length), [1, length], 32, |tile| {
            for row in tile.rows() {
                softmax.run(&from[row * length..][..length], tile.row(row));
            }
        });
    }
}

impl Scope<'_> {
    pub(super) fn rows(&self, function: &RowFunction, width: usize, output: &mut [f32]) {
        let from = self.floats(self.stage.inputs[0]);
        let made = function.made(width);
        let rows = output.len() / made;
        self.share(TileMut::new(output, rows, made, made), [1, made], ROW * width / made, |tile| {
            for row in tile.rows() {
                rows::apply(self.plan.isa, function, width, &from[row * width..][..width], tile.row(row));
            }
        });
    }
}

/// A value of a row of floats takes as long as so many products.
const ROW: usize = 64;

/// One row's part from a column on.
fn pieces<T: Copy>(
    operands: [&[T]; 2],
    starts: [usize; 2],
    still: [bool; 2],
    column: usize,
    output: &mut [T],
    of: &impl Fn(&[T], &[T], &mut [T]),
) {
    let along = |i: usize, count: usize| &operands[i][starts[i] + column..][..count];
    match still {
        [false, false] => of(along(0, output.len()), along(1, output.len()), output),
        [a_still, b_still] => {
            let repeated = [0, 1].map(|i| [operands[i][starts[i]]; REPEATED]);
            for (chunk, to) in output.chunks_mut(REPEATED).enumerate() {
                let from = |i: usize, still: bool| match still {
                    true => &repeated[i][..to.len()],
                    false => &operands[i][starts[i] + column + chunk * REPEATED..][..to.len()],
                };
                of(from(0, a_still), from(1, b_still), to);
            }
        }
    }
}
