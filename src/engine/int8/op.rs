//! The operators of a region, with everything that is known at load worked out: multipliers, tables, index maps.
//!
//! Invariant: an operator holds all its constants and no scale of a neighbour; what two executors compute from the same
//! operator and the same bytes is the same, bit for bit.
//! All values and zero points are of the *signed domain*: one of an ONNX uint8 tensor is 128 less there.
//! Layouts are logical: activations NCHW, weights of a convolution OIHW, of a product `[K][N]`. Executors pack.
//! Left out: 3-D windows, transposed convolutions, cubic interpolation; lowering leaves them in float.
//! Rejected: one operator for each ONNX operator (Relu, Sigmoid, Gelu, a change of scale are one table to a kernel).

use super::function::{Binary, Unary};
use super::rows::RowFunction;
use std::sync::Arc;

/// What a unary function makes of each of the 256 values, at index `value + 128`.
pub type Table = [i8; 256];

/// What each of the 256 values stands for, at index `value + 128`.
pub type Curve = [f32; 256];

/// Weights as a file has them, in the signed domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Convolution: `[M][C / group][kernel height][kernel width]`. Product: `[K][N]`.
    pub data: Arc<[i8]>,
    pub shape: Vec<usize>,
    /// One for all output channels, or one each.
    pub zero_points: Arc<[i8]>,
}

/// What becomes of an accumulator.
#[derive(Debug, Clone, PartialEq)]
pub enum Finish {
    /// `rint(clamp(f32(acc)·m, low − zp, high − zp)) + zp`, then the table, if there is one.
    Requantize {
        /// Input scale times weight scale over output scale: one for all output channels, or one each.
        multipliers: Arc<[f32]>,
        /// The output's, or what it is before the table.
        zero_point: i8,
        low: i8,
        high: i8,
        table: Option<Arc<Table>>,
    },
    /// `f32(acc)·scale + bias`, rounded after each. Behind an input of dynamic parameters, that input's scale comes
    /// into the scale first.
    Float {
        /// Input scale times weight scale, or weight scale: one for all output channels, or one each.
        scales: Arc<[f32]>,
        /// Empty, or one for each output channel.
        bias: Arc<[f32]>,
    },
    /// The accumulator as it is.
    Accumulator,
}

/// Convolution over `[N, C, H, W]`. A padded pixel holds the input's zero point.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    pub weights: Weights,
    /// In units of input scale times weight scale: empty, or one for each output channel.
    pub bias: Arc<[i32]>,
    pub window: Window,
    pub group: usize,
    pub finish: Finish,
}

/// `[.., K]` times constant `[K][N]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    pub weights: Weights,
    /// In units of input scale times weight scale: empty, or one for each output channel.
    pub bias: Arc<[i32]>,
    pub finish: Finish,
}

/// Weights that floats meet, of shapes as [`Weights`] has them.
#[derive(Debug, Clone, PartialEq)]
pub enum FloatWeights {
    Bytes {
        weights: Weights,
        /// One for all output channels, or one each.
        scales: Arc<[f32]>,
    },
    Floats {
        data: Arc<[f32]>,
        shape: Vec<usize>,
    },
}

/// Floats `[.., K]` times constant `[K][N]`: `Σ x·w`, one fused multiplication and addition after another, in the
/// order of k; then `+ bias`, rounded. Of weights in bytes `Σ x·(w − z)`, then `·scale`, then `+ bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatLinear {
    pub weights: FloatWeights,
    /// Empty, or one for each output channel.
    pub bias: Arc<[f32]>,
}

/// Convolution of floats over `[N, C, H, W]`, with sums as of [`FloatLinear`]: in the order of taps, and of each in that
/// of channels. A padded pixel is 0; where each channel has one window of its own, it is passed over.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatConv {
    pub weights: FloatWeights,
    /// Empty, or one for each output channel.
    pub bias: Arc<[f32]>,
    pub window: Window,
    pub group: usize,
}

/// Average of floats over a window: their sum, one addition after another, divided by how many they are.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatAverage {
    pub window: Window,
    /// Padded pixels count, as zeros.
    pub count_pads: bool,
}

/// A sliding window of two dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Top, left, bottom, right.
    pub pads: [usize; 4],
}

/// `rint(fma(a, ra, fma(b, rb, c)))`, clamped, with the operands' raw values a and b; the output's zero point is in c.
/// A subtraction has a negative rb. Operands broadcast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Add {
    pub ra: f32,
    pub rb: f32,
    pub c: f32,
    pub low: i8,
    pub high: i8,
}

/// `rint(fma((a − za)·(b − zb), m, zp))`, clamped. Operands broadcast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mul {
    pub multiplier: f32,
    pub low: i8,
    pub high: i8,
}

/// Average over a window; the sum of `value − zp` times the multiplier, requantized.
#[derive(Debug, Clone, PartialEq)]
pub struct AveragePool {
    pub window: Window,
    /// Input scale over output scale and number of values, at index `number − 1`.
    pub multipliers: Arc<[f32]>,
    /// Padded pixels count, as zeros.
    pub count_pads: bool,
}

/// Average over some axes, kept as ones in the output's shape or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Mean {
    pub axes: Vec<usize>,
    /// Input scale over output scale and number of values.
    pub multiplier: f32,
}

/// Along the axis: `rint(clamp(f32(e)·r, low − zp, high − zp)) + zp`, where e is the exponential by table of the
/// distance to the largest value, r = f32(1 / (f64(Σe)·scale)).
#[derive(Debug, Clone, PartialEq)]
pub struct Softmax {
    pub axis: usize,
    /// `rint(exp(−distance·scale)·2^24)` at index `distance`.
    pub exponentials: Arc<[u32; 256]>,
}

/// Bilinear interpolation of height and width, in units of 2⁻¹¹.
///
/// The sum over four pixels of `(value − zp)·wy·wx` is exact in 32 bits; it is requantized with the multiplier.
#[derive(Debug, Clone, PartialEq)]
pub struct Bilinear {
    pub rows: Arc<[Lerp]>,
    pub columns: Arc<[Lerp]>,
    /// Input scale over output scale times 2⁻²².
    pub multiplier: f32,
}

/// Where an output line of a bilinear interpolation lies between two input lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lerp {
    pub first: usize,
    pub second: usize,
    /// Weight of the second, 0 to 2048; the first has the rest.
    pub weight: i32,
}

/// One step of a program. Movements keep their input's parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A tensor of the file, in the signed domain.
    Constant(Arc<[i8]>),
    /// A float tensor of the file.
    FloatConstant(Arc<[f32]>),
    /// F32 to int8: `rint(x / scale) + zp`, saturated.
    Quantize,
    /// Int8 to F32, by value at index `value + 128`: `(q − zp)·scale`, or a function of it.
    Dequantize(Arc<Curve>),
    /// F32 to int8 with parameters found at run time (ONNX DynamicQuantizeLinear).
    DynamicQuantize,
    /// A function of one value, a change of parameters.
    Table(Arc<Table>),
    Conv(Conv),
    Linear(Linear),
    /// `[.., M, K]` times `[.., K, N]`, both computed; leading axes broadcast.
    MatMul(Finish),
    Add(Add),
    Mul(Mul),
    /// All inputs have the output's parameters.
    Concat {
        axis: usize,
    },
    /// A padded pixel never wins. Of floats too.
    MaxPool(Window),
    AveragePool(AveragePool),
    Mean(Mean),
    Softmax(Softmax),
    Bilinear(Bilinear),
    /// Along each axis, which index of the input an output index takes; `None` takes all as they are.
    Select {
        maps: Vec<Option<Arc<[usize]>>>,
    },
    /// Every step-th value from a start; the output's shape says how many.
    Slice {
        starts: Vec<usize>,
        steps: Vec<usize>,
    },
    /// Values before each axis and a constant to fill with; the output's shape says how many come behind.
    Pad {
        before: Vec<usize>,
        value: i8,
    },
    /// Output axis i is input axis `permutation[i]`.
    Transpose {
        permutation: Vec<usize>,
    },
    /// The same values in another shape.
    Reshape,
    /// F32 to F32, one value at a time.
    Float(Unary),
    /// F32 and F32 to F32; operands broadcast.
    FloatBinary(Binary),
    /// F32 to F32.
    FloatLinear(FloatLinear),
    FloatConv(FloatConv),
    FloatAverage(FloatAverage),
    /// F32 `[.., M, K]` times F32 `[.., K, N]`, as `FloatLinear` adds; leading axes broadcast.
    FloatMatMul,
    /// F32 to F32, by rows of what lies innermost.
    Rows {
        function: RowFunction,
        width: usize,
    },
}

impl Op {
    /// As listings name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Constant(_) | Self::FloatConstant(_) => "constant",
            Self::Quantize => "quantize",
            Self::Dequantize(_) => "dequantize",
            Self::DynamicQuantize => "dynamic-quantize",
            Self::Table(_) => "table",
            Self::Conv(_) => "conv",
            Self::Linear(_) => "linear",
            Self::MatMul(_) => "matmul",
            Self::Add(_) => "add",
            Self::Mul(_) => "mul",
            Self::Concat { .. } => "concat",
            Self::MaxPool(_) => "max-pool",
            Self::AveragePool(_) => "average-pool",
            Self::Mean(_) => "mean",
            Self::Softmax(_) => "softmax",
            Self::Bilinear(_) => "bilinear",
            Self::Select { .. } => "select",
            Self::Slice { .. } => "slice",
            Self::Pad { .. } => "pad",
            Self::Transpose { .. } => "transpose",
            Self::Reshape => "reshape",
            Self::Float(_) => "float",
            Self::FloatBinary(_) => "float-binary",
            Self::FloatLinear(_) => "float-linear",
            Self::FloatConv(_) => "float-conv",
            Self::FloatAverage(_) => "float-average-pool",
            Self::FloatMatMul => "float-matmul",
            Self::Rows { function: RowFunction::Softmax, .. } => "float-softmax",
            Self::Rows { function: RowFunction::Mean, .. } => "float-mean",
            Self::Rows { function: RowFunction::LayerNorm(_), .. } => "layer-norm",
        }
    }

    /// What it multiplies with, where that is constant and of bytes.
    pub fn weights(&self) -> Option<&Weights> {
        if let Self::Conv(Conv { weights, .. }) | Self::Linear(Linear { weights, .. }) = self {
            Some(weights)
        } else if let Some(FloatWeights::Bytes { weights, .. }) = self.float_weights() {
            Some(weights)
        } else {
            None
        }
    }

    /// What it multiplies floats with, where that is constant.
    pub fn float_weights(&self) -> Option<&FloatWeights> {
        if let Self::FloatLinear(FloatLinear { weights, .. }) | Self::FloatConv(FloatConv { weights, .. }) = self {
            Some(weights)
        } else {
            None
        }
    }

    /// Whether what it multiplies are floats.
    pub fn is_of_floats(&self) -> bool {
        self.float_weights().is_some() || *self == Self::FloatMatMul
    }

    /// The function of one float that it is.
    pub fn float_function(&self) -> Option<Unary> {
        if let Self::Float(function) = self { Some(*function) } else { None }
    }

    /// The function of two floats that it is.
    pub fn float_binary(&self) -> Option<Binary> {
        if let Self::FloatBinary(function) = self { Some(*function) } else { None }
    }

    /// The shape of its weights.
    pub fn weights_shape(&self) -> Option<&[usize]> {
        let floats = self.float_weights().map(FloatWeights::shape);
        floats.or_else(|| self.weights().map(|weights| weights.shape.as_slice()))
    }

    /// Lets go of its weights' values; what is left cannot be executed.
    pub fn forget_weights(&mut self) {
        if let Self::Conv(Conv { weights, .. }) | Self::Linear(Linear { weights, .. }) = self {
            weights.data = [].into();
        } else if let Self::FloatLinear(FloatLinear { weights, .. }) | Self::FloatConv(FloatConv { weights, .. }) = self
        {
            match weights {
                FloatWeights::Bytes { weights, .. } => weights.data = [].into(),
                FloatWeights::Floats { data, .. } => *data = [].into(),
            }
        }
    }

    /// Only puts values elsewhere.
    pub fn is_movement(&self) -> bool {
        matches!(
            self,
            Self::Pad { .. } | Self::Select { .. } | Self::Slice { .. } | Self::Transpose { .. } | Self::Reshape
        )
    }

    /// A tensor of the file.
    pub fn is_constant(&self) -> bool {
        matches!(self, Self::Constant(_) | Self::FloatConstant(_))
    }
}

impl FloatConv {
    /// Whether each channel has one window of its own.
    pub fn is_depthwise(&self) -> bool {
        let shape = self.weights.shape();
        self.group > 1 && shape.first() == Some(&self.group) && shape.get(1) == Some(&1)
    }
}

impl FloatWeights {
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Bytes { weights, .. } => &weights.shape,
            Self::Floats { shape, .. } => shape,
        }
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> usize {
        let count: usize = self.shape().iter().product();
        match self {
            Self::Bytes { weights, .. } => count + weights.zero_points.len(),
            Self::Floats { .. } => count * size_of::<f32>(),
        }
    }
}

impl Window {
    /// One value, moving by one.
    pub const UNIT: Self = Self { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };

    /// Values in one window at most.
    pub const MAX_TAPS: usize = 1 << 16;

    /// Height and width of the output; `None` where the window does not fit, cannot move, or is too large.
    pub fn output(&self, input: [usize; 2]) -> Option<[usize; 2]> {
        self.kernel[0].checked_mul(self.kernel[1]).filter(|&taps| taps <= Self::MAX_TAPS)?;
        let side = |i: usize| {
            let reach = self.kernel[i].checked_sub(1)?.checked_mul(self.dilation[i])?.checked_add(1)?;
            let padded = input[i].checked_add(self.pads[i])?.checked_add(self.pads[i + 2])?;
            padded.checked_sub(reach)?.checked_div(self.stride[i])?.checked_add(1)
        };
        Some([side(0)?, side(1)?])
    }

    /// The input line (axis 0) or column (axis 1) that a tap meets; `None` in the padding.
    pub fn meets(&self, axis: usize, output: usize, tap: usize, size: usize) -> Option<usize> {
        (output * self.stride[axis] + tap * self.dilation[axis]).checked_sub(self.pads[axis]).filter(|&at| at < size)
    }
}
