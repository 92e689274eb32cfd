//! How models run here: with which instructions, on how many threads.
//!
//! Invariant: settings hold for the whole process and are stated once, before the first model; models loaded without
//! any get the defaults.
//! Not here: what the CPU has (`kernels`), where wishes are written down (`config`).
//! Rejected: settings as an argument of [`Model::load`](super::Model::load) (rooms that know nothing of CPUs would hand
//! them on from the start of the process, and threads are shared by all models anyway).

use crate::kernels::{Isa, IsaError, Threads};
use serde::Serialize;
use std::sync::OnceLock;

/// The instruction set to use instead of another, by name; goes before the configuration.
pub const ISA_VARIABLE: &str = "SELVEDGE_ISA";

static STATED: OnceLock<Settings> = OnceLock::new();

/// Shared by all models; started with the first that has a region.
static THREADS: OnceLock<Threads> = OnceLock::new();

/// What a process wishes of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `None`: the best that this CPU has.
    pub isa: Option<Isa>,
    /// Of one inference.
    pub threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { isa: None, threads: Self::default_threads() }
    }
}

/// Other settings are in force already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine of this process runs by other settings already: {0:?}")]
pub struct AlreadyStated(pub Settings);

impl Settings {
    /// One a core. More than four gain little on the layers of small models.
    const MOST_BY_DEFAULT: usize = 4;

    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, |cores| cores.get().min(Self::MOST_BY_DEFAULT))
    }

    /// Puts them in force for the whole process, once.
    ///
    /// # Errors
    /// When others are.
    pub fn state(self) -> Result<(), AlreadyStated> {
        let stated = STATED.get_or_init(|| self);
        if *stated == self { Ok(()) } else { Err(AlreadyStated(*stated)) }
    }

    /// Those in force, or the defaults.
    pub fn current() -> Self {
        STATED.get().copied().unwrap_or_default()
    }

    /// The threads that help with each inference.
    pub(super) fn helpers() -> Threads {
        let start = || {
            let count = Self::current().threads;
            Threads::new(count).unwrap_or_else(|error| {
                tracing::warn!(%error, count, "threads for inference do not start: each runs on one");
                Threads::alone()
            })
        };
        THREADS.get_or_init(start).clone()
    }

    /// The instruction set that models are loaded for, and who chose it.
    ///
    /// # Errors
    /// When the one wished for is unknown, or this CPU lacks it.
    pub fn isa(&self) -> Result<IsaChoice, IsaError> {
        self.isa_with(std::env::var(ISA_VARIABLE).ok().as_deref())
    }

    fn isa_with(&self, variable: Option<&str>) -> Result<IsaChoice, IsaError> {
        let wished = self.isa.map(Isa::name);
        let (name, because) = match (variable, wished) {
            (Some(name), _) => (Some(name), Because::Environment),
            (None, Some(name)) => (Some(name), Because::Configuration),
            (None, None) => (None, Because::Best),
        };
        Ok(IsaChoice { isa: Isa::select(name)?, because })
    }
}

/// An instruction set and why it is this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsaChoice {
    pub isa: Isa,
    pub because: Because,
}

impl std::fmt::Display for IsaChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.isa, self.because)
    }
}

/// Who chose the instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// `SELVEDGE_ISA`.
    Environment,
    /// `engine.isa`.
    Configuration,
    /// Nobody: it is the best that this CPU has.
    Best,
}

impl std::fmt::Display for Because {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Environment => "named by SELVEDGE_ISA",
            Self::Configuration => "named by the configuration (engine.isa)",
            Self::Best => "the best of this CPU",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_goes_before_the_configuration_and_that_before_detection() {
        let wish = Settings { isa: Some(Isa::Scalar), threads: 1 };
        let choice = |settings: Settings, variable| settings.isa_with(variable).unwrap();
        assert_eq!(choice(wish, None), IsaChoice { isa: Isa::Scalar, because: Because::Configuration });
        assert_eq!(choice(wish, Some(Isa::best().name())).isa, Isa::best());
        assert_eq!(choice(wish, Some("scalar")).because, Because::Environment);
        let detected = choice(Settings::default(), None);
        assert_eq!(detected, IsaChoice { isa: Isa::best(), because: Because::Best });
        assert!(wish.isa_with(Some("mmx")).unwrap_err().to_string().contains("known are scalar"));
        let lacking = Isa::ALL.into_iter().find(|isa| !isa.is_available()).unwrap();
        let told = Settings { isa: Some(lacking), threads: 1 }.isa_with(None).unwrap_err();
        assert_eq!(told, IsaError::Unavailable { wanted: lacking });
    }

    #[test]
    fn by_default_there_are_as_many_threads_as_cores_and_at_most_four() {
        assert!((1..=4).contains(&Settings::default().threads));
    }
}
