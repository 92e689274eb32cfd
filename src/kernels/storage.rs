//! How a quantized value lies in a byte.
//!
//! Invariant: the *signed domain* is the same everywhere. A value of an ONNX int8 tensor is itself there, one of a
//! uint8 tensor is 128 less, and so are zero points and bounds: all parameters of all kernels are given in it, and
//! all rounding happens in it. Storage says only which byte stands for a signed value.
//! Rejected: rounding in the stored domain (a sum with 128 more in it rounds differently, and two boards disagree).

use super::Isa;

/// The byte that stands for a value of the signed domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// The value in two's complement: what `sdot` and `smull` multiply.
    S8,
    /// The value plus 128: what `vpdpbusd` multiplies.
    U8,
}

impl Storage {
    /// From a value of the signed domain to its byte.
    pub const fn byte(self, value: i8) -> u8 {
        value.cast_unsigned() ^ self.flip()
    }

    /// From a byte to its value in the signed domain.
    pub const fn value(self, byte: u8) -> i8 {
        (byte ^ self.flip()).cast_signed()
    }

    /// What turns stored bytes into two's complement and back, by exclusive or.
    pub const fn flip(self) -> u8 {
        match self {
            Self::S8 => 0,
            Self::U8 => 0x80,
        }
    }

    /// What turns the bytes of an ONNX tensor into stored ones and back, by exclusive or.
    pub const fn flip_from(self, signed: bool) -> u8 {
        if signed { self.flip() } else { self.flip() ^ 0x80 }
    }

    /// The number that a kernel multiplies with, less the value.
    pub(super) const fn offset(self) -> i32 {
        match self {
            Self::S8 => 0,
            Self::U8 => 128,
        }
    }
}

impl Isa {
    /// How tensors lie in memory between this tier's kernels. The scalar tier reads both.
    pub const fn storage(self) -> Storage {
        match self {
            Self::Scalar | Self::Neon | Self::Dotprod | Self::I8mm => Storage::S8,
            Self::Avx2 | Self::AvxVnni | Self::Avx512Vnni => Storage::U8,
        }
    }

    pub const fn supports(self, storage: Storage) -> bool {
        matches!(self, Self::Scalar)
            || matches!((self.storage(), storage), (Storage::S8, Storage::S8) | (Storage::U8, Storage::U8))
    }
}
