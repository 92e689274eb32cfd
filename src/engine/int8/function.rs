//! Functions of one or two floats, with the same bits on every architecture.
//!
//! Invariant: transcendental functions are computed in f64 by `libm` (pure Rust, no platform library) and rounded to
//! f32 once; arithmetic is plain f32. Nothing is contracted.
//! Rejected: `f32::exp` and its kind (each platform's library rounds its own way, and golden samples are signed on
//! another machine than the one that checks them).

use crate::kernels::{Isa, Loops, vectorized};

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    Relu,
    Clip {
        low: f32,
        high: f32,
    },
    LeakyRelu {
        alpha: f32,
    },
    Elu {
        alpha: f32,
    },
    Celu {
        alpha: f32,
    },
    Selu {
        alpha: f32,
        gamma: f32,
    },
    Sigmoid,
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    Tanh,
    Softplus,
    Softsign,
    Mish,
    /// x·sigmoid(alpha·x): SiLU where alpha is 1.
    Swish {
        alpha: f32,
    },
    /// By the error function.
    Gelu,
    GeluTanh,
    Erf,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Neg,
    Abs,
    Floor,
    Ceil,
    Round,
    Sign,
    Sin,
    Cos,
    Identity,
}

/// A function of two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Pow,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

fn softplus(x: f64) -> f64 {
    if x > 30.0 { x } else { libm::log1p(libm::exp(x)) }
}

/// What is not below zero stays; nor does what is not a number change.
fn below_zero(x: f32, otherwise: impl Fn() -> f32) -> f32 {
    if x < 0.0 { otherwise() } else { x }
}

fn sign(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

fn celu(x: f64, alpha: f64) -> f64 {
    x.max(0.0) + (alpha * libm::expm1(x / alpha)).min(0.0)
}

fn selu(x: f64, alpha: f64, gamma: f64) -> f64 {
    gamma * if x > 0.0 { x } else { alpha * libm::expm1(x) }
}

fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + libm::tanh(inner))
}

impl Unary {
    pub fn of(self, x: f32) -> f32 {
        let wide = f64::from(x);
        match self {
            Self::Relu => x.max(0.0),
            // Not `clamp`: it panics where the bounds cross, and ONNX lets the upper one win.
            Self::Clip { low, high } => x.max(low).min(high),
            Self::LeakyRelu { alpha } => below_zero(x, || x * alpha),
            Self::HardSigmoid { alpha, beta } => (x * alpha + beta).clamp(0.0, 1.0),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Reciprocal => 1.0 / x,
            Self::Neg => -x,
            Self::Abs => x.abs(),
            Self::Floor => x.floor(),
            Self::Ceil => x.ceil(),
            Self::Round => x.round_ties_even(),
            Self::Sqrt => x.sqrt(),
            Self::Sign => sign(x),
            Self::Identity => x,
            Self::Elu { alpha } => below_zero(x, || (f64::from(alpha) * libm::expm1(wide)) as f32),
            Self::Celu { alpha } => celu(wide, f64::from(alpha)) as f32,
            Self::Selu { alpha, gamma } => selu(wide, f64::from(alpha), f64::from(gamma)) as f32,
            Self::Sigmoid => sigmoid(wide) as f32,
            Self::Tanh => libm::tanh(wide) as f32,
            Self::Softplus => softplus(wide) as f32,
            Self::Mish => (wide * libm::tanh(softplus(wide))) as f32,
            Self::Swish { alpha } => (wide * sigmoid(f64::from(alpha) * wide)) as f32,
            Self::Gelu => (0.5 * wide * (1.0 + libm::erf(wide * std::f64::consts::FRAC_1_SQRT_2))) as f32,
            Self::GeluTanh => gelu_tanh(wide) as f32,
            Self::Erf => libm::erf(wide) as f32,
            Self::Exp => libm::exp(wide) as f32,
            Self::Log => libm::log(wide) as f32,
            Self::Sin => libm::sin(wide) as f32,
            Self::Cos => libm::cos(wide) as f32,
        }
    }
}

impl Binary {
    /// Value by value, by the vectors of `isa`.
    pub fn apply(self, isa: Isa, a: &[f32], b: &[f32], to: &mut [f32]) {
        vectorized(isa, Apply { function: self, a, b, to });
    }

    /// The same with one operand in place: the first where it `leads`, else the second.
    pub fn apply_in_place(self, isa: Isa, values: &mut [f32], with: &[f32], leads: bool) {
        vectorized(isa, InPlace { function: self, values, with, leads });
    }

    pub fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
            Self::Pow => libm::pow(f64::from(a), f64::from(b)) as f32,
        }
    }
}

struct Apply<'a> {
    function: Binary,
    a: &'a [f32],
    b: &'a [f32],
    to: &'a mut [f32],
}

struct InPlace<'a> {
    function: Binary,
    values: &'a mut [f32],
    with: &'a [f32],
    leads: bool,
}

impl Loops for InPlace<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { function, values, with, leads } = self;
        macro_rules! each {
            ($of:expr) => {{
                let of = $of;
                let pairs = values.iter_mut().zip(with);
                match leads {
                    true => pairs.for_each(|(a, &b)| *a = of(*a, b)),
                    false => pairs.for_each(|(b, &a)| *b = of(a, *b)),
                }
            }};
        }
        match function {
            Binary::Add => each!(|a: f32, b: f32| a + b),
            Binary::Sub => each!(|a: f32, b: f32| a - b),
            Binary::Mul => each!(|a: f32, b: f32| a * b),
            Binary::Div => each!(|a: f32, b: f32| a / b),
            Binary::Min | Binary::Max | Binary::Pow => each!(|a, b| function.of(a, b)),
        }
    }
}

impl Loops for Apply<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { function, a, b, to } = self;
        macro_rules! each {
            ($of:expr) => {{
                let of = $of;
                to.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (&a, &b))| *to = of(a, b));
            }};
        }
        match function {
            Binary::Add => each!(|a: f32, b: f32| a + b),
            Binary::Sub => each!(|a: f32, b: f32| a - b),
            Binary::Mul => each!(|a: f32, b: f32| a * b),
            Binary::Div => each!(|a: f32, b: f32| a / b),
            Binary::Min | Binary::Max | Binary::Pow => each!(|a, b| function.of(a, b)),
        }
    }
}

/// `rint(exp(−distance·scale)·2^24)` for each distance: what Softmax sums.
pub fn exponentials(scale: f32) -> [u32; 256] {
    std::array::from_fn(|distance| {
        let power = libm::exp(-(distance as f64) * f64::from(scale));
        (power * 16_777_216.0).round_ties_even() as u32
    })
}
