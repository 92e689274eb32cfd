//! Looking ahead: whether a float value is on its way to a QuantizeLinear, and to which.
//!
//! Rounding a value before an operator that only moves or clamps values gives what rounding it behind gives: so a
//! product may round for a QuantizeLinear that stands some nodes further on. Anything else in between forbids it.

use super::super::function::Unary;
use super::super::program::QuantParams;
use super::super::round;
use super::elementwise::unary;
use super::params::is_quantize;
use super::state::Lowering;
use crate::onnx::graph::{Node, Use, ValueId};

/// Nodes that are looked past, one behind the other.
const MAX_AHEAD: usize = 12;
/// Readers that one question looks at in all: behind Concats of Concats there are as many ways as a file likes.
const MAX_LOOKS: usize = 4_000;

/// How far a question may still look.
#[derive(Clone, Copy)]
struct Sight {
    ahead: usize,
    looks: usize,
}

impl Sight {
    fn full() -> Self {
        Self { ahead: MAX_AHEAD, looks: MAX_LOOKS }
    }

    /// `None` where it ends.
    fn look(&mut self) -> Option<()> {
        self.looks = self.looks.checked_sub(1)?;
        Some(())
    }

    /// Goes on behind a node; what is looked at there counts here too.
    fn beyond<T>(&mut self, see: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.ahead = self.ahead.checked_sub(1)?;
        let seen = see(self);
        self.ahead += 1;
        Some(seen)
    }
}

/// Where a value is rounded to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sink {
    pub params: QuantParams,
    /// Bounds of the clamps on the way.
    pub low: i8,
    pub high: i8,
}

impl Lowering<'_> {
    /// The one QuantizeLinear, or several alike, to which all readers of a float value lead.
    pub fn sink(&self, value: ValueId) -> Option<Sink> {
        self.sink_within(value, &mut Sight::full())
    }

    fn sink_within(&self, value: ValueId, sight: &mut Sight) -> Option<Sink> {
        let mut found: Option<Sink> = None;
        for &user in self.uses.of(value) {
            sight.look()?;
            let Use::Input(id, input) = user else { return None };
            let one = self.sink_through(self.graph.node(id)?, input, sight)?;
            let agrees =
                |other: &Sink| other.params.agrees(&one.params) && (other.low, other.high) == (one.low, one.high);
            if !found.as_ref().is_none_or(agrees) {
                return None;
            }
            found = Some(one);
        }
        found
    }

    fn sink_through(&self, node: &Node, input: usize, sight: &mut Sight) -> Option<Sink> {
        if is_quantize(node) {
            let params = self.quantize_params(node).ok().filter(|_| input == 0)?;
            return Some(Sink { params, low: i8::MIN, high: i8::MAX });
        }
        if !node.domain.is_empty() || (input != 0 && node.op != "Concat") {
            return None;
        }
        match node.op.as_str() {
            "Relu" | "Clip" => {
                let function = unary(self, node)?;
                let bounds = if let Unary::Clip { low, high } = function { (low, high) } else { (0.0, f32::INFINITY) };
                if bounds.0 > bounds.1 {
                    return None;
                }
                let output = node.output(0)?;
                let mut sink = sight.beyond(|sight| self.sink_within(output, sight))??;
                sink.low = sink.low.max(round::quantize(bounds.0, &sink.params));
                sink.high = sink.high.min(round::quantize(bounds.1, &sink.params));
                (sink.low <= sink.high).then_some(sink)
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "Identity" | "MaxPool" | "Concat"
            | "Slice" | "Split" | "Gather" | "DepthToSpace" | "SpaceToDepth" => {
                let behind = |output| sight.beyond(|sight| self.sink_within(output, sight)).flatten();
                let mut sinks = node.outputs.iter().flatten().copied().map(behind);
                let first = sinks.next()??;
                sinks.all(|sink| sink == Some(first)).then_some(first)
            }
            _ => None,
        }
    }

    /// Whether all readers of a float value lead to a QuantizeLinear through elementwise operators alone.
    pub fn ends_quantized(&self, value: ValueId) -> bool {
        self.ends_within(value, &mut Sight::full())
    }

    fn ends_within(&self, value: ValueId, sight: &mut Sight) -> bool {
        let uses = self.uses.of(value);
        let one = |user: &Use| {
            let (Use::Input(id, input), Some(())) = (*user, sight.look()) else { return false };
            let Some(node) = self.graph.node(id) else { return false };
            if node.is("DynamicQuantizeLinear") {
                return true;
            }
            if is_quantize(node) {
                return input == 0 && self.quantize_params(node).is_ok();
            }
            let elementwise = unary(self, node).is_some() || super::elementwise::binary(node).is_some();
            let behind = |output| sight.beyond(|sight| self.ends_within(output, sight)) == Some(true);
            elementwise && node.output(0).is_some_and(behind)
        };
        !uses.is_empty() && uses.iter().all(one)
    }
}
