//! Steps of single values behind a product of floats: done to some rows of it at a time, while they are in a cache.
//!
//! Invariant: each step computes what it does as a stage of its own, in the same order.

use super::super::approximate;
use super::super::function::{Binary, Unary};
use super::super::op::Op;
use super::super::program::{Program, Step, Type, ValueId};
use super::layout::Layout;
use crate::kernels::{Isa, TileMut};

/// Values that go through all steps together.
const BLOCK: usize = 512;

/// One behind the other.
#[derive(Debug, Default)]
pub(super) struct Chain(Vec<Link>);

#[derive(Debug)]
enum Link {
    Function(Unary),
    Binary {
        function: Binary,
        with: Operand,
        /// Whether the chain's own value is the first operand.
        leads: bool,
    },
}

/// What the chain's value meets.
#[derive(Debug)]
enum Operand {
    /// One constant, repeated.
    One(Box<[f32; BLOCK]>),
    /// A constant for each column.
    Columns(Box<[f32]>),
    /// Another value that lies as the output does, by its number among the stage's inputs.
    Value(usize),
}

/// What a constant step holds.
pub(super) fn constant(program: &Program, id: ValueId) -> Option<&[f32]> {
    let step = program.steps().iter().find(|step| step.output == id)?;
    if let Op::FloatConstant(values) = &step.op { Some(values) } else { None }
}

/// Whether a constant of that shape is one value, or one for each column, of values of another shape that lie so.
fn is_by_column(shape: &[usize], of: &[usize], layout: Layout) -> bool {
    let column = match (layout, of.len()) {
        (Layout::Nhwc, 4) => 1,
        (Layout::Plain | Layout::Nhwc | Layout::Image(_), rank) => rank.saturating_sub(1),
    };
    let Some(behind) = of.len().checked_sub(shape.len()) else { return false };
    shape.iter().enumerate().all(|(axis, &dim)| dim == 1 || (axis + behind == column && dim == of[column]))
}

/// Whether a step can follow a product that makes a value, of which it alone reads.
pub(super) fn follows(program: &Program, layouts: &[Layout], made: ValueId, next: &Step) -> bool {
    let (value, output) = (program.value(made), program.value(next.output));
    let (from, to) = (layouts[made.index()], layouts[next.output.index()]);
    if value.ty != Type::F32 || value.shape != output.shape || from != to {
        return false;
    }
    if next.op.float_function().is_some() {
        return true;
    }
    let Some(other) = other(next, made) else { return false };
    let shape = &program.value(other).shape;
    match constant(program, other) {
        Some(_) => is_by_column(shape, &value.shape, to),
        None => *shape == value.shape && layouts[other.index()] == to,
    }
}

/// The operand of a binary step that is not this one.
fn other(step: &Step, made: ValueId) -> Option<ValueId> {
    step.op.float_binary()?;
    step.inputs.iter().copied().find(|&id| id != made)
}

/// What steps behind the first read from elsewhere, but for constants.
pub(super) fn operands(program: &Program, steps: &[&Step]) -> Vec<ValueId> {
    let pairs = steps.windows(2).filter_map(|pair| other(pair[1], pair[0].output));
    pairs.filter(|&id| constant(program, id).is_none()).collect()
}

impl Chain {
    /// Steps behind some products of so many columns, of which the first are done otherwise; `None` for what no chain
    /// does. Its stage reads the product's input, then the [operands].
    pub fn new(program: &Program, width: usize, steps: &[&Step], done: usize) -> Option<Self> {
        let mut number = 0;
        let mut link = |pair: &[&Step]| {
            let (made, step) = (pair[0].output, pair[1]);
            if let Some(function) = step.op.float_function() {
                return Some(Link::Function(function));
            }
            let (function, with) = (step.op.float_binary()?, other(step, made)?);
            let with = match constant(program, with) {
                Some(&[one]) => Operand::One(Box::new([one; BLOCK])),
                Some(values) => Operand::Columns(Some(values).filter(|values| values.len() == width)?.into()),
                None => {
                    number += 1;
                    Operand::Value(number)
                }
            };
            Some(Link::Binary { function, with, leads: step.inputs.first() == Some(&made) })
        };
        steps.windows(2).skip(done).map(&mut link).collect::<Option<_>>().map(Self)
    }

    /// To all values of a tile, whose rows and columns begin so far on in an output of `width` columns. `value` finds
    /// what the stage reads, by number.
    pub fn apply<'v>(
        &self,
        isa: Isa,
        tile: &mut TileMut<'_, f32>,
        [row, column]: [usize; 2],
        width: usize,
        value: impl Fn(usize) -> &'v [f32],
    ) {
        if self.0.is_empty() {
            return;
        }
        let columns = tile.columns();
        let by_column = |link: &Link| matches!(link, Link::Binary { with: Operand::Columns(_), .. });
        if columns.len() == width && !self.0.iter().any(by_column) {
            let mut at = (row + tile.rows().start) * width;
            return tile.pieces(tile.rows(), columns, |values| {
                self.blocks(isa, values, at, 0, &value);
                at += values.len();
            });
        }
        for line in tile.rows() {
            let at = (row + line) * width + column + columns.start;
            self.blocks(isa, tile.row(line), at, column + columns.start, &value);
        }
    }

    /// Values from a place and a column of the output on.
    fn blocks<'v>(&self, isa: Isa, values: &mut [f32], at: usize, column: usize, value: &impl Fn(usize) -> &'v [f32]) {
        for (i, block) in values.chunks_mut(BLOCK).enumerate() {
            let (count, start) = (block.len(), i * BLOCK);
            for link in &self.0 {
                match link {
                    Link::Function(function) => approximate::apply_in_place(isa, *function, block),
                    Link::Binary { function, with, leads } => {
                        let with = match with {
                            Operand::One(values) => &values[..count],
                            Operand::Columns(values) => &values[column + start..][..count],
                            Operand::Value(number) => &value(*number)[at + start..][..count],
                        };
                        function.apply_in_place(isa, block, with, *leads);
                    }
                }
            }
        }
    }
}
