//! Where log lines go. They tell what the daemon does, never what a model was asked or answered.

use crate::config::{Log, LogFormat};
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
    tracing_subscriber::registry().with(layer.with_filter(filter.and(filter_fn(is_discreet)))).try_init()?;
    if let Some(error) = lost {
        tracing::warn!(%error, "the journal does not answer: logging as text to standard error");
    }
    Ok(())
}

/// Other people's crates log what they handle: tract its tensors, hyper requests. Whatever the level,
/// nothing of theirs that could quote an input is logged.
fn is_discreet(line: &tracing::Metadata<'_>) -> bool {
    const LIMITS: [(&str, LevelFilter); 4] = [
        ("selvedge", LevelFilter::TRACE),
        ("tract", LevelFilter::WARN),
        ("hyper", LevelFilter::WARN),
        ("", LevelFilter::INFO),
    ];
    let limit = LIMITS.into_iter().find(|(prefix, _)| line.target().starts_with(prefix));
    limit.is_some_and(|(_, limit)| *line.level() <= limit)
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
