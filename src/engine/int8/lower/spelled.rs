//! Float functions that exporters spell out, node by node: Gelu and LayerNormalization.
//!
//! Each is looked for at the last of its steps; the steps before it die where nobody else reads them.

use super::super::function::{Binary, Unary};
use super::super::op::Op;
use super::super::program::{Step, Type, ValueId as Id};
use super::super::rows::{LayerNorm, RowFunction};
use super::reason::Reason;
use super::state::Lowering;
use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::sync::Arc;

/// How far a constant may be from the number that it stands for, as some exporters write few digits.
const NEAR: f32 = 1e-4;

impl Lowering<'_> {
    fn step_of(&self, id: Id) -> Option<&Step> {
        self.makers.get(&id).map(|&step| &self.draft.steps[step])
    }

    fn float_constant_of(&self, id: Id) -> Option<&Arc<[f32]>> {
        if let Op::FloatConstant(values) = &self.step_of(id)?.op { Some(values) } else { None }
    }

    fn is_near(&self, id: Id, wanted: f32) -> bool {
        let one = self.float_constant_of(id).filter(|values| values.len() == 1).and_then(|values| values.first());
        one.is_some_and(|value| ((value - wanted) / wanted).abs() < NEAR)
    }

    /// The operands of a binary function.
    fn operands(&self, id: Id, wanted: Binary) -> Option<[Id; 2]> {
        let step = self.step_of(id).filter(|step| step.op == Op::FloatBinary(wanted))?;
        step.inputs.as_slice().try_into().ok()
    }

    /// Both operands, in the order in which the first is what `is` says.
    fn either(&self, id: Id, wanted: Binary, is: impl Fn(Id) -> bool) -> Option<[Id; 2]> {
        let [a, b] = self.operands(id, wanted)?;
        [[a, b], [b, a]].into_iter().find(|pair| is(pair[0]))
    }

    fn unary_of(&self, id: Id, wanted: Unary) -> Option<Id> {
        let step = self.step_of(id).filter(|step| step.op == Op::Float(wanted))?;
        step.inputs.first().copied()
    }

    /// Instead of a product or a sum just asked for: the whole that it ends, if it ends one.
    pub fn whole(&mut self, function: Binary, a: Id, b: Id, shape: &[usize]) -> Result<Option<Id>, Reason> {
        let made = match function {
            Binary::Mul if self.hard_swish(a, b).is_some() => {
                self.hard_swish(a, b).map(|x| (Op::Float(Unary::HardSwish), x))
            }
            Binary::Mul => self.gelu(a, b).map(|x| (Op::Float(Unary::Gelu), x)).or_else(|| self.scaled(a, b)),
            Binary::Add => self.shifted(a, b),
            Binary::Div if self.is_near(b, 6.0) => {
                let [x, gate] = self.operands(a, Binary::Mul).unwrap_or([a, b]);
                let whole = self.is_gate(gate, x).then_some(x).or_else(|| self.is_gate(x, gate).then_some(gate));
                whole.map(|x| (Op::Float(Unary::HardSwish), x))
            }
            Binary::Div => self.normalized(a, b),
            Binary::Sub | Binary::Min | Binary::Max | Binary::Pow => None,
        };
        let Some((op, input)) = made else { return Ok(None) };
        // Constants of one element may have more axes than what they meet.
        let fits = self.shape_of(input) == shape;
        if fits { self.emit(op, vec![input], shape.to_vec(), Type::F32).map(Some) } else { Ok(None) }
    }

    /// Of what: `x · (1 + erf(x / √2)) · 0.5`, in any order of the factors.
    fn gelu(&self, a: Id, b: Id) -> Option<Id> {
        let factors = |id: Id| self.operands(id, Binary::Mul).map_or(vec![id], |pair| pair.to_vec());
        let ways = [[factors(a), vec![b]].concat(), [vec![a], factors(b)].concat()];
        ways.into_iter().filter(|factors| factors.len() == 3).find_map(|mut factors| {
            let half = factors.iter().position(|&id| self.is_near(id, 0.5))?;
            factors.remove(half);
            let &[a, b] = factors.as_slice() else { return None };
            [(a, b), (b, a)].into_iter().find_map(|(x, sum)| {
                let [_, erf] = self.either(sum, Binary::Add, |id| self.is_near(id, 1.0))?;
                let scaled = self.unary_of(erf, Unary::Erf)?;
                let by_product = self.either(scaled, Binary::Mul, |id| self.is_near(id, FRAC_1_SQRT_2));
                let by_quotient = || {
                    let [x, root] = self.operands(scaled, Binary::Div)?;
                    self.is_near(root, SQRT_2).then_some(x)
                };
                (by_product.map(|pair| pair[1]).or_else(by_quotient) == Some(x)).then_some(x)
            })
        })
    }

    /// Of what: `x · clip(x + 3, 0, 6) / 6`, whose quotient is taken before the product.
    fn hard_swish(&self, a: Id, b: Id) -> Option<Id> {
        let sixth = |id: Id| {
            let by_quotient =
                self.operands(id, Binary::Div).filter(|pair| self.is_near(pair[1], 6.0)).map(|pair| pair[0]);
            let by_product = || self.either(id, Binary::Mul, |id| self.is_near(id, 1.0 / 6.0)).map(|pair| pair[1]);
            by_quotient.or_else(by_product)
        };
        let of = |x: Id, gate: Id| sixth(gate).is_some_and(|gate| self.is_gate(gate, x)).then_some(x);
        let hard = |x: Id, gate: Id| {
            (self.unary_of(gate, Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }) == Some(x)).then_some(x)
        };
        of(a, b).or_else(|| of(b, a)).or_else(|| hard(a, b)).or_else(|| hard(b, a)).or_else(|| {
            // The sixth of the whole is written as a product.
            let (product, _) = [(a, b), (b, a)].into_iter().find(|(_, six)| self.is_near(*six, 1.0 / 6.0))?;
            let [x, y] = self.operands(product, Binary::Mul)?;
            if self.is_gate(y, x) { Some(x) } else { self.is_gate(x, y).then_some(y) }
        })
    }

    /// Whether it is `clip(x + 3, 0, 6)`.
    fn is_gate(&self, gate: Id, x: Id) -> bool {
        let sum = self.unary_of(gate, Unary::Clip { low: 0.0, high: 6.0 });
        let pair = sum.and_then(|sum| self.either(sum, Binary::Add, |id| self.is_near(id, 3.0)));
        pair.is_some_and(|pair| pair[1] == x)
    }

    /// `(x − mean) / sqrt(mean((x − mean)²) + epsilon)`
    fn normalized(&self, a: Id, b: Id) -> Option<(Op, Id)> {
        let [x, mean] = self.operands(a, Binary::Sub)?;
        let (of, width) = self.mean_of(mean)?;
        let sum = self.unary_of(b, Unary::Sqrt)?;
        let [epsilon, variance] = self.either(sum, Binary::Add, |id| self.float_constant_of(id).is_some())?;
        let (square, same) = self.mean_of(variance)?;
        let &[epsilon] = &**self.float_constant_of(epsilon)? else { return None };
        let squares = self.operands(square, Binary::Mul) == Some([a, a]);
        // Each mean is one value to a row of x, where it is subtracted.
        let stands =
            self.shape_of(mean).len() == self.shape_of(x).len() && self.shape_of(variance) == self.shape_of(mean);
        let fits = of == x && same == width && squares && stands && self.shape_of(a) == self.shape_of(x);
        let norm = LayerNorm { epsilon, scale: [].into(), bias: [].into() };
        fits.then_some((Op::Rows { function: RowFunction::LayerNorm(norm), width }, x))
    }

    fn mean_of(&self, id: Id) -> Option<(Id, usize)> {
        let step = self.step_of(id)?;
        let &Op::Rows { function: RowFunction::Mean, width } = &step.op else { return None };
        Some((*step.inputs.first()?, width))
    }

    /// A normalization, what it is of, and a constant for each value of its rows.
    fn normalization(&self, a: Id, b: Id) -> Option<(LayerNorm, usize, Id, Arc<[f32]>)> {
        [(a, b), (b, a)].into_iter().find_map(|(norm, constant)| {
            let values = Arc::clone(self.float_constant_of(constant)?);
            let step = self.step_of(norm)?;
            let Op::Rows { function: RowFunction::LayerNorm(norm), width } = &step.op else { return None };
            let along = self.shape_of(constant).len() <= 1 && values.len() == *width;
            along.then(|| (norm.clone(), *width, step.inputs[0], values))
        })
    }

    fn scaled(&self, a: Id, b: Id) -> Option<(Op, Id)> {
        let (norm, width, x, scale) = self.normalization(a, b)?;
        let fresh = norm.scale.is_empty() && norm.bias.is_empty();
        let function = RowFunction::LayerNorm(LayerNorm { scale, ..norm });
        fresh.then_some((Op::Rows { function, width }, x))
    }

    fn shifted(&self, a: Id, b: Id) -> Option<(Op, Id)> {
        let (norm, width, x, bias) = self.normalization(a, b)?;
        let fresh = norm.bias.is_empty();
        let function = RowFunction::LayerNorm(LayerNorm { bias, ..norm });
        fresh.then_some((Op::Rows { function, width }, x))
    }
}
