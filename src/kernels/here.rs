#![allow(unsafe_code, reason = "calls functions compiled for instructions that were found")]
//! Plain loops, compiled once for each instruction set that the compiler can use by itself.
//!
//! Invariant: a [`Here`] exists only for an instruction set that this CPU has.
//! Such loops read and write each byte once and reach what memory gives; kernels that do more are written by hand.

use super::isa::Isa;
use super::pack::PackError;
use super::storage::Storage;

/// An instruction set that this CPU has, and a storage that is its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here {
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "one set of instructions needs no asking"))]
    isa: Isa,
    storage: Storage,
}

impl Here {
    pub(super) fn new(isa: Isa, storage: Storage) -> Result<Self, PackError> {
        if isa.is_available() && isa.supports(storage) {
            Ok(Self { isa, storage })
        } else {
            Err(PackError::Isa { isa })
        }
    }

    /// What every CPU of the architecture has.
    pub(super) fn plain(storage: Storage) -> Self {
        Self { isa: Isa::Scalar, storage }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn isa(self) -> Isa {
        self.isa
    }

    pub(super) fn storage(self) -> Storage {
        self.storage
    }
}

/// Loops that the compiler turns into vectors. `run` is to be `#[inline(always)]`: what is called out of line is compiled
/// for any CPU. A closure cannot say so.
pub trait Loops {
    fn run(self);
}

/// Runs loops compiled for what this CPU has of `isa`. Nothing is contracted: what comes out is the same for all.
pub fn vectorized(isa: Isa, loops: impl Loops) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2(loops: impl Loops) {
            loops.run();
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
        fn avx512(loops: impl Loops) {
            loops.run();
        }
        match isa {
            // SAFETY: the CPU was asked.
            Isa::Avx2 | Isa::AvxVnni if isa.is_available() => return unsafe { avx2(loops) },
            // SAFETY: as above.
            Isa::Avx512Vnni if isa.is_available() => return unsafe { avx512(loops) },
            Isa::Scalar | Isa::Neon | Isa::Dotprod | Isa::I8mm | Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => {}
        }
    }
    let _ = isa;
    loops.run();
}

/// Defines a function whose body is compiled for each instruction set; its first argument chooses.
macro_rules! by_isa {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "what the loop needs, by value")]
        $visibility fn $name(here: $crate::kernels::here::Here, $($arg: $type),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn body($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx2($($arg: $type),*) {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn avx512($($arg: $type),*) {
                    body($($arg),*)
                }
                use $crate::kernels::isa::Isa;
                match here.isa() {
                    Isa::Scalar | Isa::Neon | Isa::Dotprod | Isa::I8mm => body($($arg),*),
                    // SAFETY: `Here` says that this CPU has it.
                    Isa::Avx2 | Isa::AvxVnni => unsafe { avx2($($arg),*) },
                    // SAFETY: `Here` says that this CPU has it.
                    Isa::Avx512Vnni => unsafe { avx512($($arg),*) },
                }
            }
            // Armv8.0's vectors need no asking.
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = here;
                body($($arg),*)
            }
        }
    };
}

pub(super) use by_isa;
