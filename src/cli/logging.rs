//! Where log lines go. They tell what the daemon does, never what a model was asked or answered.
//!
//! Invariant: our own words alone may be turned up. Libraries below us print at their finer levels
//! what they hold in their hands (tract: the values of every tensor; hyper: heads of requests), so
//! whatever the configuration says, they are heard up to a fixed level and no further.

use crate::config::{Log, LogFormat};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("{level:?} is no log level")]
    Level { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("start logging")]
    Start(#[from] TryInitError),
}

/// Starts logging for the whole process, once. Without a journal, text goes to standard error and a warning says so.
pub fn start(log: &Log) -> Result<(), LoggingError> {
    let level = log.level.clone();
    let filter = EnvFilter::try_new(&level).map_err(|source| LoggingError::Level { level, source })?;
    let (layer, lost) = layer(log.format);
    let discreet = filter_fn(|line| is_discreet(line.target(), *line.level()));
    // Without the hint each line of a library, however fine, would be asked about one by one.
    let filter = filter.and(discreet.with_max_level_hint(LevelFilter::TRACE));
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    if let Some(error) = lost {
        tracing::warn!(%error, "the journal does not answer: logging as text to standard error");
    }
    Ok(())
}

/// Other people's crates log what they handle: tract its tensors, hyper requests. Whatever the level,
/// nothing of theirs that could quote an input is logged.
fn is_discreet(target: &str, level: Level) -> bool {
    const LIMITS: [(&str, Level); 4] =
        [("selvedge", Level::TRACE), ("tract", Level::WARN), ("hyper", Level::WARN), ("", Level::INFO)];
    let limit = LIMITS.into_iter().find(|(prefix, _)| target.starts_with(prefix));
    limit.is_some_and(|(_, limit)| level <= limit)
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

fn layer(format: LogFormat) -> (Boxed, Option<std::io::Error>) {
    match format {
        LogFormat::Text => (text(), None),
        LogFormat::Json => (fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(), None),
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(layer) => (layer.with_syslog_identifier("selvedged".into()).boxed(), None),
            Err(error) => (text(), Some(error)),
        },
    }
}

fn text() -> Boxed {
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    fmt::layer().with_ansi(colour).with_writer(std::io::stderr).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_not_heard_at_the_levels_where_they_print_what_they_hold() {
        for target in ["selvedge", "selvedge::engine::graph"] {
            assert!(is_discreet(target, Level::TRACE), "{target}");
        }
        for target in ["tract", "tract_core", "hyper::proto::h1::io"] {
            assert!(is_discreet(target, Level::WARN), "{target}");
            assert!(!is_discreet(target, Level::INFO), "{target}");
        }
        for target in ["rumqttc", "tough", "log", ""] {
            assert!(is_discreet(target, Level::INFO), "{target}");
            assert!(!is_discreet(target, Level::DEBUG), "{target}");
        }
    }
}
