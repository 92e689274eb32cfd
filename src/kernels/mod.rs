//! Int8 microkernels: convolution, matrix product, depthwise convolution, elementwise operators, pools, quantization.
//!
//! Invariant: every instruction set gives the bytes of the scalar tier, bit for bit (`tests.rs` holds each to it), so
//! that a golden sample signed on a PC is checked on a board. Accumulators never reach memory except where asked for.
//! Not here: graphs, tensors' lifetimes, threads. This room imports no sibling and allocates nothing while it runs.
//!
//! Layout: NHWC, one byte a value. A tensor's slice goes on for [`SLACK`] bytes behind its last value, since kernels
//! read whole groups of channels; what they read there meets zero weights. Every length is checked before any pointer
//! is made: safe functions check and panic with a message, a small unsafe core trusts.
//! Splitting for threads: [`TileMut::grid`] hands out each rectangle of an output once.
//!
//! Rejected: int32 tensors between product and requantization (memory traffic: 15.9 MB for MobileNetV2), im2col
//! (pointers to pixels cost less), weights, biases and multipliers interleaved in one block (three typed arrays read as
//! fast and need no casts), `vpmaddubsw` (it saturates).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
mod convert;
mod depthwise;
#[cfg(target_arch = "x86_64")]
mod depthwise_avx2;
#[cfg(target_arch = "aarch64")]
mod depthwise_dotprod;
#[cfg(target_arch = "aarch64")]
mod depthwise_neon;
mod depthwise_scalar;
#[cfg(target_arch = "x86_64")]
mod depthwise_vnni;
#[cfg(target_arch = "aarch64")]
mod dotprod;
mod elementwise;
mod f32_block;
mod f32_conv;
mod f32_depthwise;
mod f32_pool;
mod float;
mod float_gemm;
mod gemm;
mod halves;
mod here;
#[cfg(target_arch = "aarch64")]
mod i8mm;
mod indirect;
mod isa;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod numbers;
mod pack;
mod pool;
mod reach;
#[cfg(target_arch = "aarch64")]
mod requant_neon;
mod resize;
mod round;
mod scalar;
mod shared;
mod softmax;
mod storage;
mod threads;
mod tile;
mod transpose;
#[cfg(target_arch = "aarch64")]
mod transpose_neon;
mod walk;
mod wide;
mod winograd;
pub mod words;

#[cfg(test)]
mod tests;

pub use convert::{Convert, Image, lines_of_pixels};
pub use depthwise::{Depthwise, DepthwiseSpec};
pub use elementwise::{Add, BinarySpec, Mul, Quantization, look_up, look_up_in_place, tabulate};
pub use f32_conv::{F32Conv, F32ConvSpec, F32Rows, F32Weights};
pub use f32_depthwise::F32Depthwise;
pub use f32_pool::{F32Pool, F32PoolKind};
pub use float::{FloatDepthwise, range};
pub use float_gemm::FloatProduct;
pub use gemm::{Gemm, GemmSpec, Rows, Source};
pub use halves::{Greater, LANES, Pair, Sum, join};
pub use here::{Loops, vectorized};
pub use indirect::{Geometry, GeometryError, Indirection};
pub use isa::{Isa, IsaError};
pub use pack::{PackError, Requant, WeightView};
pub use pool::{AveragePool, MaxPool};
pub use resize::{Bilinear, Lerp};
pub use round::requantize;
pub use shared::SharedWeights;
pub use softmax::Softmax;
pub use storage::Storage;
pub use threads::Threads;
pub use tile::{Grid, TileMut};
pub use transpose::{by_channel, part, part_of_floats};
pub use wide::Dynamic;
pub use winograd::{Frame, Winograd};

/// Bytes that must follow a tensor's last value in its slice.
pub const SLACK: usize = 64;
