//! The live display: a line that moves while the story goes on, and a line for each act.

use super::load::{Load, accuracy, quantile};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

#[derive(Debug, Clone)]
pub(super) struct Display {
    bar: ProgressBar,
    live: bool,
    start: Instant,
}

/// Requests that the moving figures look back on.
const WINDOW: usize = 100;
/// Points of the accuracy's trace.
const TRACE: usize = 40;

impl Display {
    pub(super) fn new(live: bool) -> Self {
        let bar = ProgressBar::new_spinner();
        let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        bar.set_draw_target(target);
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a fixed template"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, live, start: Instant::now() }
    }

    /// Something happens.
    pub(super) fn act(&self, text: &str) {
        let line = format!("{:5.1} s  {text}", self.start.elapsed().as_secs_f64());
        // Hidden also where standard error is no terminal: then the line is printed as it is.
        if self.bar.is_hidden() {
            if self.live {
                eprintln!("{line}");
            }
        } else {
            self.bar.println(line);
        }
    }

    /// Keeps the moving line up to date until it is aborted.
    pub(super) fn watch(&self, load: Arc<Load>) -> JoinHandle<()> {
        let (bar, start) = (self.bar.clone(), self.start);
        tokio::spawn(async move {
            let mut trace = Vec::new();
            let mut tick = interval(Duration::from_millis(250));
            loop {
                tick.tick().await;
                bar.set_message(line(&load, start, &mut trace));
            }
        })
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(load: &Load, start: Instant, trace: &mut Vec<char>) -> String {
    let recent = load.recent(start, WINDOW);
    let Some(right) = accuracy(&recent) else { return "waiting for the first answer".into() };
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share times seven")]
    trace.push(LEVELS[((right * 7.0).round() as usize).min(7)]);
    let from = trace.len().saturating_sub(TRACE);
    let samples = load.samples();
    let failed = samples.iter().filter(|sample| sample.answer.is_none()).count();
    let version =
        recent.first().and_then(|sample| sample.answer).map_or("-".to_owned(), |(version, _)| version.to_string());
    let p50 = quantile(&recent, 0.5).map_or(0.0, |d| d.as_secs_f64() * 1e3);
    let complaint = load.complaint().map(|text| format!("  last failure: {text}")).unwrap_or_default();
    format!(
        "version {version}  accuracy {:3.0} % {}  {} answered, {failed} failed, p50 {p50:.2} ms{complaint}",
        right * 100.0,
        trace[from..].iter().collect::<String>(),
        samples.len() - failed,
    )
}
