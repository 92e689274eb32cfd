//! Operators that work element by element, and how shapes of different ranks meet.

use super::{Follower, Role, Understood};
use crate::compress::prune::ids::Axis;
use crate::onnx::graph::{Node, ValueId};

/// Of one input, where zeros stay zeros.
const KEEP_ZERO: [&str; 24] = [
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "FastGelu",
    "QuickGelu",
    "Tanh",
    "HardSwish",
    "Swish",
    "Mish",
    "Abs",
    "Neg",
    "Sqrt",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Erf",
    "Identity",
    "Dropout",
    "Softsign",
    "ThresholdedRelu",
];
/// Of one input.
const UNARY: [&str; 12] =
    ["Sigmoid", "HardSigmoid", "Exp", "Log", "Cos", "Sin", "Reciprocal", "Softplus", "Not", "Cast", "IsNaN", "Clip"];
/// Of several.
const BROADCAST: [&str; 19] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "PRelu",
    "Min",
    "Max",
    "Sum",
    "Mean",
    "Where",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "And",
    "Or",
    "BiasGelu",
];

impl Follower<'_> {
    pub(super) fn elementwise(&mut self, node: &Node) -> Understood {
        let op = node.op.as_str();
        let (keeps_zero, unary) = (KEEP_ZERO.contains(&op), UNARY.contains(&op));
        if keeps_zero || unary {
            let (x, y) = (node.input(0)?, node.output(0)?);
            let axes = (0..self.followed.axes(x).len()).map(|axis| self.axis(x, axis)).collect();
            let zero = self.is_zero(x) && (keeps_zero || op == "Cast" || op == "Clip" && self.clips_around_zero(node));
            self.set(y, axes, zero);
            return Some(());
        }
        if !BROADCAST.contains(&op) {
            return None;
        }
        let y = node.output(0)?;
        let out = self.shape(y)?;
        let operands: Vec<(ValueId, usize)> = node.inputs.iter().flatten().map(|&value| (value, 0)).collect();
        let role = match op {
            "Mul" => Role::Scales,
            "Add" | "Sub" | "Sum" | "Mean" | "BiasGelu" => Role::Shifts,
            _ => Role::Keeps,
        };
        let axes = self.broadcast(node, &operands, &out, role)?;
        let zero = self.zero_of(node, role, &axes);
        self.set(y, axes, zero);
        Some(())
    }

    fn clips_around_zero(&self, node: &Node) -> bool {
        let bound =
            |at: usize| node.input(at).and_then(|value| self.graph.constant(value)?.to_f32s()?.first().copied());
        let unknown = |at: usize| node.input(at).is_some() && bound(at).is_none();
        !unknown(1) && !unknown(2) && bound(1).is_none_or(|low| low <= 0.0) && bound(2).is_none_or(|high| high >= 0.0)
    }

    /// Whether channels of the result are zeros where the weights behind them are.
    fn zero_of(&self, node: &Node, role: Role, axes: &[Axis]) -> bool {
        let bears = |&value: &ValueId| {
            let rank = self.followed.axes(value).len();
            let matches = |(at, axis): (usize, &Axis)| {
                axis.ids().is_none()
                    || at + rank >= axes.len() && self.axis(value, at + rank - axes.len()).ids().is_some()
            };
            // What is constant and bears ids is zeroed with them.
            (self.is_constant(value) || self.is_zero(value)) && axes.iter().enumerate().all(matches)
        };
        let mut operands = node.inputs.iter().flatten();
        match (node.op.as_str(), role) {
            (_, Role::Scales) => operands.any(bears),
            ("Div" | "PRelu", _) => node.input(0).is_some_and(|value| self.is_zero(value) && bears(&value)),
            ("Min" | "Max", _) => operands.all(|value| !self.is_constant(*value) && bears(value)),
            (_, Role::Shifts) => operands.all(bears),
            _ => false,
        }
    }

    /// Operands, each without its last so many axes, meet aligned on the right; returns the axes of the result, whose sizes
    /// are `out`. Constants that bear channels do so in `role`.
    pub(super) fn broadcast(
        &mut self,
        node: &Node,
        operands: &[(ValueId, usize)],
        out: &[usize],
        role: Role,
    ) -> Option<Vec<Axis>> {
        let mut axes = Vec::with_capacity(out.len());
        for (at, &size) in out.iter().enumerate() {
            let mut meeting = Vec::new();
            for &(value, dropped) in operands {
                let shape = self.shape(value)?;
                let rank = shape.len().checked_sub(dropped)?;
                if at + rank >= out.len() && size > 1 && shape[at + rank - out.len()] == size {
                    meeting.push((value, at + rank - out.len()));
                }
            }
            let ids = meeting.iter().find_map(|&(value, axis)| self.axis(value, axis).ids().cloned());
            match ids {
                Some(ids) => {
                    for &place in &meeting {
                        let divides = node.is("Div") && node.input(1) == Some(place.0);
                        self.adopt(node, place, &ids, if divides { Role::Keeps } else { role })?;
                    }
                    axes.push(Axis::Ids(ids));
                }
                None => {
                    meeting.iter().for_each(|&(value, axis)| self.stay(value, axis, "it meets what stays"));
                    axes.push(Axis::Plain);
                }
            }
        }
        Some(axes)
    }
}
