//! Which instruction sets this CPU has, and which of them the kernels use.
//!
//! Invariant: [`Isa::available`] asks the CPU once; a kernel is built only for what stands there.
//! Not here: where the wish for another than the best comes from.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// A tier of kernels, by the instructions that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the reference.
    Scalar,
    /// Armv8.0: Cortex-A53, A57, A72.
    Neon,
    /// Armv8.2 `sdot`: Cortex-A55, A76, A78.
    Dotprod,
    /// Armv8.6 `smmla`: Cortex-A510, A710, Neoverse V1.
    I8mm,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// `vpdpbusd` on 256 bits.
    AvxVnni,
    /// `vpdpbusd` on 512 bits.
    Avx512Vnni,
}

/// Why a wished instruction set cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    #[error("unknown instruction set \"{0}\": known are {list}", list = names(&Isa::ALL))]
    Unknown(String),
    #[error("this CPU lacks {wanted}: it has {list}", list = names(Isa::available()))]
    Unavailable { wanted: Isa },
}

impl Isa {
    pub const ALL: [Self; 7] =
        [Self::Scalar, Self::Neon, Self::Dotprod, Self::I8mm, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni];

    /// All that this CPU runs, best last.
    pub fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Isa>> = OnceLock::new();
        FOUND.get_or_init(|| Self::ALL.into_iter().filter(|isa| isa.detect()).collect())
    }

    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::Scalar)
    }

    pub fn is_available(self) -> bool {
        Self::available().contains(&self)
    }

    /// The wished instruction set by its name, or the best one.
    pub fn select(wanted: Option<&str>) -> Result<Self, IsaError> {
        let Some(wanted) = wanted else { return Ok(Self::best()) };
        let wanted: Self = wanted.parse()?;
        if wanted.is_available() { Ok(wanted) } else { Err(IsaError::Unavailable { wanted }) }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
            Self::I8mm => "i8mm",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Vnni => "avx512vnni",
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn detect(self) -> bool {
        use std::arch::is_aarch64_feature_detected as has;
        match self {
            Self::Scalar => true,
            Self::Neon => has!("neon"),
            Self::Dotprod => has!("neon") && has!("dotprod"),
            Self::I8mm => has!("neon") && has!("dotprod") && has!("i8mm"),
            Self::Avx2 | Self::AvxVnni | Self::Avx512Vnni => false,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn detect(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma");
        match self {
            Self::Scalar => true,
            Self::Neon | Self::Dotprod | Self::I8mm => false,
            Self::Avx2 => avx2,
            Self::AvxVnni => avx2 && has!("avxvnni"),
            Self::Avx512Vnni => avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni"),
        }
    }

    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    fn detect(self) -> bool {
        self == Self::Scalar
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(text: &str) -> Result<Self, IsaError> {
        Self::ALL.into_iter().find(|isa| isa.name() == text).ok_or_else(|| IsaError::Unknown(text.to_owned()))
    }
}

fn names(list: &[Isa]) -> String {
    list.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}
