//! A plan's file.

use crate::cli::{advise, plain};
use anyhow::{Context as _, anyhow};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Bytes of a plan.
const MAX: u64 = 1 << 20;
const MAX_STEPS: usize = 64;

/// The words of a plan's file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Words {
    model: PathBuf,
    data: Option<PathBuf>,
    labels: Option<PathBuf>,
    scale: Option<f64>,
    split: Option<String>,
    metric: Option<String>,
    #[serde(default = "one")]
    seed: u64,
    out: PathBuf,
    name: Option<String>,
    #[serde(default)]
    golden_from_data: bool,
    /// Where results of steps are kept.
    cache: Option<PathBuf>,
    #[serde(default)]
    step: Vec<BTreeMap<String, toml::Value>>,
}

fn one() -> u64 {
    1
}

/// A plan that has been read.
#[derive(Debug)]
pub(super) struct Plan {
    /// What its paths are relative to.
    pub home: PathBuf,
    pub cache: PathBuf,
    pub steps: Vec<Step>,
    pub data: Option<PathBuf>,
    pub labels: Option<PathBuf>,
    words: Words,
}

/// One step: a command and its options.
#[derive(Debug)]
pub(super) struct Step {
    pub name: String,
    /// As they stand on a command line.
    pub options: Vec<String>,
    /// Options that name files.
    pub files: Vec<PathBuf>,
}

/// Commands that a plan may name.
const STEPS: [&str; 4] = ["distil", "prune", "finetune", "quantize"];

/// What the plan itself says for every step.
const COMMON: [&str; 9] = ["data", "labels", "scale", "split", "seed", "out", "name", "golden-from-data", "json"];

/// Options whose value is a file.
const FILES: [&str; 4] = ["student", "keep-data", "report", "config"];

impl Plan {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        use std::io::Read as _;
        let what = || format!("read the plan {}", plain(&path.display().to_string()));
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX + 1).read_to_string(&mut text));
        read.map_err(|error| advise(error, what(), "does it exist, and may you read it?"))?;
        if text.len() as u64 > MAX {
            return Err(advise(anyhow!("it is over {} KiB", MAX >> 10), what(), "is it a plan?"));
        }
        let help = "`selvedge compress --help` shows one";
        let words: Words = toml::from_str(&text).map_err(|error| advise(error, what(), help))?;
        if words.step.is_empty() || words.step.len() > MAX_STEPS {
            let found = anyhow!("there are {} [[step]] in it, and 1 to {MAX_STEPS} are expected", words.step.len());
            return Err(advise(found, what(), help));
        }
        let step = |(at, table): (usize, &BTreeMap<String, toml::Value>)| {
            Step::of(table).with_context(|| format!("step {} of the plan", at + 1))
        };
        let steps = words.step.iter().enumerate().map(step).collect::<anyhow::Result<_>>()?;
        let home = std::path::absolute(path)?.parent().map(Path::to_path_buf).unwrap_or_default();
        let beside = path.with_extension("cache").file_name().map(PathBuf::from).unwrap_or_default();
        let cache = home.join(words.cache.clone().unwrap_or(beside));
        let (data, labels) = (words.data.clone(), words.labels.clone());
        Ok(Self { home, cache, steps, data, labels, words })
    }

    /// The model, the data and the output, as the commands read them.
    pub fn ends(&self) -> anyhow::Result<super::Ends> {
        let words = [OsString::from("selvedge"), self.words.model.clone().into()].into_iter();
        let mut line: Vec<OsString> = words.chain(self.common()).collect();
        line.extend(["--out".into(), self.words.out.clone().into()]);
        line.extend(self.words.name.iter().flat_map(|name| ["--name".into(), name.into()]));
        line.extend(self.words.golden_from_data.then(|| "--golden-from-data".into()));
        line.extend(self.words.metric.iter().flat_map(|metric| ["--metric".into(), metric.into()]));
        <super::Ends as clap::Parser>::try_parse_from(line).map_err(|error| {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default().to_owned();
            advise(anyhow!("{}", plain(&first)), "read the plan", "`selvedge compress --help` shows one")
        })
    }

    /// What every step is told of the data.
    fn common(&self) -> Vec<OsString> {
        let words = &self.words;
        let path = |name: &str, path: &Option<PathBuf>| {
            path.iter().flat_map(|path| [OsString::from(name), path.into()]).collect::<Vec<_>>()
        };
        let mut line = [path("--data", &words.data), path("--labels", &words.labels)].concat();
        // Between steps a model is a file alone: its manifest is still the one that says how data is read.
        if words.data.is_some() && self.home.join(&words.model).is_dir() {
            line.extend(["--like".into(), words.model.clone().into()]);
        }
        line.extend(words.scale.iter().flat_map(|scale| ["--scale".into(), scale.to_string().into()]));
        line.extend(words.split.iter().flat_map(|split| ["--split".into(), split.into()]));
        line.extend(["--seed".into(), words.seed.to_string().into()]);
        line
    }

    /// A step's words behind the program's name.
    pub fn command_line(&self, step: &Step, input: &Path, output: &Path) -> Vec<OsString> {
        let mut line = vec![OsString::from(&step.name), input.into()];
        line.extend(self.common());
        let own = step.options.iter().any(|option| option == "--metric");
        let metric = self.words.metric.iter().filter(|_| !own);
        line.extend(metric.flat_map(|metric| ["--metric".into(), metric.into()]));
        line.extend(step.options.iter().map(OsString::from));
        line.extend(["--out".into(), output.into()]);
        line
    }

    /// All that decides what comes out, but for files' contents.
    pub fn common_text(&self) -> String {
        format!("{:?} {:?}", self.common(), self.words.metric)
    }
}

impl Step {
    fn of(table: &BTreeMap<String, toml::Value>) -> anyhow::Result<Self> {
        let name = table.get("do").and_then(toml::Value::as_str).unwrap_or_default();
        if !STEPS.contains(&name) {
            let found = anyhow!("do = {:?} is no step", plain(name));
            return Err(advise(found, "read the step", format!("one of {} is expected", STEPS.join(", "))));
        }
        let mut step = Self { name: name.to_owned(), options: Vec::new(), files: Vec::new() };
        for (key, value) in table.iter().filter(|(key, _)| *key != "do") {
            if COMMON.contains(&key.as_str()) {
                let found = anyhow!("{key:?} is the plan's to say");
                return Err(advise(found, format!("read the options of {name}"), "put it above the first [[step]]"));
            }
            step.option(key, value)?;
        }
        Ok(step)
    }

    fn option(&mut self, key: &str, value: &toml::Value) -> anyhow::Result<()> {
        let mut push = |text: String| {
            if FILES.contains(&key) && !text.starts_with("template:") {
                self.files.push(PathBuf::from(&text));
            }
            self.options.extend([format!("--{key}"), text]);
        };
        match value {
            toml::Value::Boolean(yes) if key == "elementwise" => push(if *yes { "yes" } else { "no" }.into()),
            toml::Value::Boolean(true) => self.options.push(format!("--{key}")),
            toml::Value::Boolean(false) => {}
            toml::Value::String(text) => push(text.clone()),
            toml::Value::Integer(number) => push(number.to_string()),
            toml::Value::Float(number) => push(number.to_string()),
            toml::Value::Array(values) => values.iter().try_for_each(|value| self.option(key, value))?,
            toml::Value::Table(_) | toml::Value::Datetime(_) => {
                let hint = "a text, a number, true or false is expected, or a list of those";
                return Err(advise(anyhow!("{key:?} is something else"), "read the step", hint));
            }
        }
        Ok(())
    }
}
