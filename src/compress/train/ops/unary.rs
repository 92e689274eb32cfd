//! Functions of one value.

use super::{Kernel, View, apply};
use candle_core::{Result, Tensor};

/// A function and its derivative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    Relu,
    /// Negative values times this.
    LeakyRelu(f32),
    Elu(f32),
    Sigmoid,
    /// Slope and offset.
    HardSigmoid(f32, f32),
    HardSwish,
    Tanh,
    /// The exact one, by erf.
    Gelu,
    GeluTanh,
    Erf,
    Softplus,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Abs,
    /// Lower and upper bound.
    Clip(f32, f32),
    /// The value to this power.
    Pow(f32),
    Silu,
}

impl Unary {
    /// # Errors
    /// When the tensor is no FLOAT.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        apply(self, &[x])
    }

    fn value(self, x: f32) -> f32 {
        match self {
            Self::Relu => x.max(0.0),
            Self::LeakyRelu(alpha) => {
                if x < 0.0 {
                    alpha * x
                } else {
                    x
                }
            }
            Self::Elu(alpha) => {
                if x < 0.0 {
                    alpha * x.exp_m1()
                } else {
                    x
                }
            }
            Self::Sigmoid => sigmoid(x),
            Self::HardSigmoid(alpha, beta) => (alpha * x + beta).clamp(0.0, 1.0),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Tanh => x.tanh(),
            Self::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => 0.5 * x * (1.0 + inner(x).tanh()),
            Self::Erf => libm::erff(x),
            // Without overflow.
            Self::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Sqrt => x.sqrt(),
            Self::Reciprocal => x.recip(),
            Self::Abs => x.abs(),
            Self::Clip(low, high) => x.max(low).min(high),
            Self::Pow(power) => x.powf(power),
            Self::Silu => x * sigmoid(x),
        }
    }

    /// The derivative at `x`, where the function is `y`.
    fn slope(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Relu => f32::from(u8::from(x > 0.0)),
            Self::LeakyRelu(alpha) => {
                if x < 0.0 {
                    alpha
                } else {
                    1.0
                }
            }
            Self::Elu(alpha) => {
                if x < 0.0 {
                    y + alpha
                } else {
                    1.0
                }
            }
            Self::Sigmoid => y * (1.0 - y),
            Self::HardSigmoid(alpha, _) => {
                if y > 0.0 && y < 1.0 {
                    alpha
                } else {
                    0.0
                }
            }
            Self::HardSwish => match x {
                x if x <= -3.0 => 0.0,
                x if x >= 3.0 => 1.0,
                x => x / 3.0 + 0.5,
            },
            Self::Tanh => 1.0 - y * y,
            Self::Gelu => {
                let density = (-0.5 * x * x).exp() * 0.398_942_3;
                0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)) + x * density
            }
            Self::GeluTanh => {
                let t = inner(x).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * 0.797_884_6 * (1.0 + 3.0 * 0.044_715 * x * x)
            }
            Self::Erf => std::f32::consts::FRAC_2_SQRT_PI * (-x * x).exp(),
            Self::Softplus => sigmoid(x),
            Self::Exp => y,
            Self::Log => x.recip(),
            // Of a vector that is 0 the length has no direction.
            Self::Sqrt if y == 0.0 => 0.0,
            Self::Sqrt => 0.5 / y,
            Self::Reciprocal => -y * y,
            Self::Abs => {
                if x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
            Self::Clip(low, high) => f32::from(u8::from(x >= low && x <= high)),
            Self::Pow(power) => power * x.powf(power - 1.0),
            Self::Silu => {
                let s = sigmoid(x);
                s + y * (1.0 - s)
            }
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// What the tanh form of Gelu takes the tanh of.
fn inner(x: f32) -> f32 {
    0.797_884_6 * (x + 0.044_715 * x * x * x)
}

impl Kernel for Unary {
    fn name(&self) -> &'static str {
        "unary"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let of = *self;
        (inputs[0].values.iter().map(|&x| of.value(x)).collect(), inputs[0].shape.to_vec())
    }

    fn backward(&self, inputs: &[View<'_>], output: View<'_>, grad: View<'_>, _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let of = *self;
        let each = inputs[0].values.iter().zip(output.values).zip(grad.values);
        vec![Some(each.map(|((&x, &y), &grad)| grad * of.slope(x, y)).collect())]
    }
}
