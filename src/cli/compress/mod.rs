//! Commands that change or judge models: what they have in common.

pub(super) mod compare;
pub(super) mod distil;
pub(super) mod eval;
pub(super) mod finetune;
mod kept;
mod output;
pub(super) mod pipeline;
pub(super) mod prune;
pub(super) mod quantize;
mod training;

use super::model_file::Source;
use super::{advise, plain};
use crate::compress::data::{DataError, Dataset, Part, Reading, Shares, Split};
use crate::compress::score::{self, Metric};
use crate::compress::{Error, Network, Progress};
use crate::store::read_model_dir;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kept::Kept;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The data.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DataArgs {
    /// npz, npy, safetensors, csv, or a folder of images or WAV files with a subfolder for each class.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Labels in a file of their own: npy, or one each line. A sample without one: -1 among integers, NaN, an empty line.
    #[arg(long, value_name = "FILE", requires = "data")]
    labels: Option<PathBuf>,
    /// Array values times this: 0.00392 makes bytes 0 to 1.
    #[arg(long, value_name = "FACTOR", requires = "data", value_parser = parse_scale)]
    scale: Option<f32>,
    /// A model's directory whose manifest says how the data is read; by default the model's own.
    #[arg(long, value_name = "MODEL", requires = "data", hide = true)]
    like: Option<PathBuf>,
    /// Percent of the samples that calibrate, and that decide between settings; the rest judges the result.
    #[arg(long, value_name = "TRAIN/VALIDATION", default_value = "60/20", value_parser = parse_split)]
    split: Shares,
    /// Of all that is random.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// The data, and how answers to it are judged.
#[derive(Debug, clap::Args)]
pub(super) struct JudgeArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Which part of the data.
    #[arg(long, value_enum, default_value = "all")]
    part: Part,
    /// What counts as right; by default what suits the labels.
    #[arg(long, value_enum)]
    metric: Option<Metric>,
}

/// Data that has been opened, in its parts.
#[derive(Debug)]
pub(super) struct Opened {
    pub data: Dataset,
    pub split: Split,
}

impl DataArgs {
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Other data, read in the same way.
    pub fn beside(&self, data: PathBuf) -> Self {
        Self { data: Some(data), labels: None, ..self.clone() }
    }

    /// `None` where none is stated.
    pub fn open(&self, source: &Source) -> anyhow::Result<Option<Opened>> {
        let Some(path) = &self.data else { return Ok(None) };
        let like = match &self.like {
            Some(like) => Some(read_model_dir(like)?.0),
            None => None,
        };
        let bundle = like.as_ref().or(source.bundle.as_ref());
        let preprocess = bundle.and_then(|bundle| bundle.manifest().inputs.first()?.preprocess.clone());
        let first = source.outputs.first().map(|spec| spec.name.clone()).unwrap_or_default();
        let classes = bundle.and_then(|bundle| bundle.labels(&first)).unwrap_or_default();
        let reading = Reading { preprocess, classes, labels: self.labels.clone(), scale: self.scale };
        let data = Dataset::open(path, &source.inputs, &reading).map_err(|error| {
            let hint = match &error {
                DataError::File { .. } => "does it exist, and may you read it?",
                DataError::Form { .. } | DataError::Sample { .. } => "`selvedge eval --help` says which files are read",
                DataError::TooLarge { .. } => "a folder of files is read one by one",
            };
            advise(error, "open the data", hint)
        })?;
        score::check_classes(&data).map_err(|error| failed(error, "open the data"))?;
        let split = Split::new(data.len(), self.seed, self.split);
        Ok(Some(Opened { data, split }))
    }
}

impl Opened {
    pub fn part(&self, part: Part) -> Vec<usize> {
        self.split.part(part)
    }
}

fn parse_scale(text: &str) -> Result<f32, String> {
    let scale: Result<f32, _> = text.parse();
    scale
        .ok()
        .filter(|scale| scale.is_finite() && *scale != 0.0)
        .ok_or_else(|| "a number other than 0 is expected".into())
}

fn parse_split(text: &str) -> Result<Shares, String> {
    let shares =
        text.split_once('/').and_then(|(train, validation)| Some((train.parse().ok()?, validation.parse().ok()?)));
    match shares {
        Some((train, validation)) if train > 0 && train + validation < 100 => Ok(Shares { train, validation }),
        _ => Err("two percentages that leave something to judge with are expected, as in 60/20".into()),
    }
}

/// The model as compression wants it.
pub(super) fn network(source: &Source) -> anyhow::Result<Network> {
    let fixed = source.inputs.iter().map(|spec| spec.at(spec.shape.clone())).collect();
    Network::with_ends(&source.onnx, fixed, source.outputs.clone())
        .map_err(|error| failed(error, format!("read the model {}", source.path)))
}

/// The same with its normalisations: training and pruning need them.
pub(super) fn with_norms(source: &Source) -> anyhow::Result<Network> {
    let fixed = source.inputs.iter().map(|spec| spec.at(spec.shape.clone())).collect();
    Network::with_norms(&source.onnx, fixed, source.outputs.clone())
        .map_err(|error| failed(error, format!("read the model {}", source.path)))
}

/// With what to do about it, where that is known.
pub(super) fn failed(error: Error, what: impl Into<String>) -> anyhow::Error {
    let hint = match &error {
        Error::Unfit(_) => return anyhow::Error::from(error).context(what.into()),
        Error::Data(_) => "mend or remove that sample",
        Error::Load(_) | Error::Run(_) => "does `selvedge bench` run it? it says which node fails",
        Error::Read(_) | Error::Normalise(_) | Error::Ends(_) => {
            "is this an ONNX file, whole? `selvedge inspect` says more"
        }
        Error::Cycle(_) | Error::Tensor(_) | Error::Compute(_) => {
            "this is a fault of Selvedge's: please report it with the model"
        }
        Error::Stopped => "nothing was written",
    };
    advise(error, what, hint)
}

/// A bar with the time left, on a terminal.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    /// The operator wants what is best so far.
    stopped: Arc<AtomicBool>,
    kept: Option<Kept>,
}

impl Bar {
    /// Where standard error is no terminal nothing is drawn.
    pub fn new() -> Self {
        let target = ProgressDrawTarget::stderr();
        let style = ProgressStyle::with_template("{msg:28} {bar:32} {pos}/{len}  {eta} left");
        let bar = ProgressBar::with_draw_target(Some(0), target);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, stopped: Arc::default(), kept: None }
    }

    /// With a directory where it is kept how far training is.
    pub fn keeping(self, dir: Option<PathBuf>) -> Self {
        Self { kept: dir.map(Kept::new), ..self }
    }

    /// From here on a first Ctrl-C ends the work with the best so far, a second one at once.
    ///
    /// # Errors
    /// When the system does not let us hear of it.
    pub fn catch_interrupt(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let interrupts = runtime.block_on(async { signal(SignalKind::interrupt()) })?;
        let (bar, stopped) = (self.bar.clone(), Arc::clone(&self.stopped));
        std::thread::Builder::new()
            .name("interrupt".into())
            .spawn(move || runtime.block_on(listen(interrupts, &bar, &stopped)))?;
        Ok(())
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

async fn listen(mut interrupts: Signal, bar: &ProgressBar, stopped: &AtomicBool) {
    /// What a shell says of a program that Ctrl-C ended.
    const INTERRUPTED: i32 = 130;
    while interrupts.recv().await.is_some() {
        if stopped.swap(true, Ordering::Relaxed) {
            exit(INTERRUPTED);
        }
        // Nobody may be left to read it.
        bar.suspend(|| {
            let _ = writeln!(std::io::stderr(), "stopping: the best so far is kept; Ctrl-C again ends at once");
        });
    }
}

impl Progress for Bar {
    fn step(&mut self, what: &str, total: usize) {
        self.bar.reset();
        self.bar.set_length(total as u64);
        self.bar.set_message(plain(what));
    }

    fn at(&mut self, done: usize) {
        self.bar.set_position(done as u64);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn keeps(&mut self, end: bool) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.is_due(end))
    }

    fn keep(&mut self, key: u64, state: &[u8]) -> Result<(), Error> {
        self.kept.as_mut().map_or(Ok(()), |kept| kept.keep(key, state))
    }

    fn kept(&mut self, key: u64) -> Option<Vec<u8>> {
        self.kept.as_ref()?.find(key)
    }
}
