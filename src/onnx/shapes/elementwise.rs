//! Operators that work element by element: broadcasting, unary, quantizing, normalising.

use super::{Args, Dim, Fact, Shape};
use crate::onnx::tensor::ElementType;

/// Same shape and type as the first input.
const UNARY: [&str; 61] = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BatchNormalization",
    "BitwiseNot",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "CumSum",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Mish",
    "Neg",
    "Not",
    "PRelu",
    "RMSNormalization",
    "Reciprocal",
    "Relu",
    "ReverseSequence",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "TensorScatter",
    "ThresholdedRelu",
    "Trilu",
];

/// Numpy's broadcasting over all inputs; the type of the first.
const BROADCAST: [&str; 14] = [
    "Add",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Pow",
    "Sub",
    "Sum",
];

/// Broadcasting to booleans.
const COMPARE: [&str; 8] = ["And", "Or", "Xor", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"];

impl Args<'_> {
    /// `None` where the operator is none of this kind.
    pub(super) fn elementwise(&self, op: &str) -> Option<Vec<Fact>> {
        let first = self.element(0);
        let same = || self.shape(0).map(<[Dim]>::to_vec);
        let one = |element, shape| vec![Fact::new(element, shape)];
        let all = || broadcast(&(0..self.node.inputs.len()).map(|input| self.shape(input)).collect::<Vec<_>>());
        let boolean = Some(ElementType::Bool);
        Some(match op {
            "Dropout" => vec![Fact::new(first, same()), Fact::new(boolean, same())],
            "LayerNormalization" => {
                let float = Fact::new(Some(ElementType::F32), self.statistics());
                vec![Fact::new(first, same()), float.clone(), float]
            }
            op if UNARY.contains(&op) => one(first, same()),
            op if BROADCAST.contains(&op) => one(first, all()),
            op if COMPARE.contains(&op) => one(boolean, all()),
            "IsNaN" | "IsInf" => one(boolean, same()),
            "Where" => one(self.element(1), all()),
            "Cast" => one(self.node.int("to").and_then(element), same()),
            "CastLike" => one(self.element(1), same()),
            "QuantizeLinear" => one(self.quantized(), same()),
            "DequantizeLinear" => one(self.output_type().or(self.element(1)), same()),
            "DynamicQuantizeLinear" => vec![
                Fact::new(Some(ElementType::U8), same()),
                Fact::new(Some(ElementType::F32), Some(Vec::new())),
                Fact::new(Some(ElementType::U8), Some(Vec::new())),
            ],
            _ => return None,
        })
    }

    fn output_type(&self) -> Option<ElementType> {
        self.node.int("output_dtype").filter(|&number| number != 0).and_then(element)
    }

    /// That of the zero point; without one, that of the attribute; without either, UINT8.
    fn quantized(&self) -> Option<ElementType> {
        if self.has(2) {
            return self.element(2);
        }
        if self.node.int("output_dtype").is_some_and(|number| number != 0) {
            return self.output_type();
        }
        Some(ElementType::U8)
    }

    /// Of mean and deviation: axes from `axis` on become 1.
    fn statistics(&self) -> Shape {
        let mut dims = self.shape(0)?.to_vec();
        let axis = self.axis(-1, dims.len())?;
        dims[axis..].fill(Dim::Size(1));
        Some(dims)
    }
}

fn element(number: i64) -> Option<ElementType> {
    ElementType::from_onnx(i32::try_from(number).ok()?)
}

/// Numpy's rule: aligned at the innermost dimension, 1 stretches. A size goes before a symbol, as a
/// symbol beside a size other than 1 is that size or 1.
pub(super) fn broadcast(shapes: &[Option<&[Dim]>]) -> Shape {
    let shapes: Vec<&[Dim]> = shapes.iter().copied().collect::<Option<_>>()?;
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let mut result = vec![Dim::Size(1); rank];
    for shape in shapes {
        for (to, dim) in result[rank - shape.len()..].iter_mut().zip(shape) {
            *to = stretch(to, dim)?;
        }
    }
    Some(result)
}

fn stretch(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Size(1), other) | (other, Dim::Size(1)) => Some(other.clone()),
        (Dim::Size(a), Dim::Size(b)) => (a == b).then_some(Dim::Size(*a)),
        (Dim::Size(size), Dim::Symbol(_) | Dim::Unknown) | (Dim::Symbol(_) | Dim::Unknown, Dim::Size(size)) => {
            Some(Dim::Size(*size))
        }
        (Dim::Symbol(a), Dim::Symbol(b)) if a == b => Some(Dim::Symbol(a.clone())),
        (Dim::Symbol(_) | Dim::Unknown, Dim::Symbol(_) | Dim::Unknown) => Some(Dim::Unknown),
    }
}
