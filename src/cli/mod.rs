//! The commands. One file each: its arguments (`Args`, with an example in the help) and its `run`.
//!
//! Invariant: a command reads its arguments and its configuration, then calls the library; what goes
//! wrong is told in one line with its causes, and with a hint where there is one.
//! Not here: anything that another program could want to call.

mod audit;
mod bench;
#[cfg(feature = "operator")]
mod broker;
mod check;
#[cfg(feature = "compress")]
mod compress;
#[cfg(feature = "operator")]
mod demo;
#[cfg(feature = "operator")]
mod fleet;
#[cfg(feature = "operator")]
mod gc;
mod inspect;
mod ledger;
mod logging;
mod model_file;
#[cfg(feature = "operator")]
mod needs;
#[cfg(feature = "operator")]
mod pack;
mod provision;
#[cfg(feature = "operator")]
mod publish;
#[cfg(feature = "operator")]
mod refresh;
#[cfg(feature = "operator")]
mod repair;
mod roles;
#[cfg(feature = "operator")]
mod rollout;
mod status;
mod table;
#[cfg(feature = "operator")]
mod trust;
#[cfg(feature = "operator")]
mod waves;

use crate::config::Config;
use crate::sys::RealDisk;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use logging::{LoggingError, start as start_logging};
pub use table::{Align, Table, bytes, plain};

/// Runs int8 neural networks on Arm Linux boards and keeps them current, safely and privately.
#[derive(Debug, Parser)]
#[command(
    name = "selvedge",
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Engine(roles::Engine),
    Link(roles::Link),
    #[command(hide = true)]
    Forward(roles::Forward),
    Run(roles::Run),
    Check(check::Args),
    Inspect(inspect::Args),
    Bench(bench::Args),
    Ledger(ledger::Args),
    Audit(audit::Args),
    Status(status::Args),
    Provision(Box<provision::Args>),
    #[cfg(feature = "operator")]
    Fleet(fleet::Args),
    #[cfg(feature = "operator")]
    Demo(demo::Args),
    #[cfg(feature = "operator")]
    Trust(trust::Args),
    #[cfg(feature = "operator")]
    Publish(publish::Args),
    #[cfg(feature = "operator")]
    Rollout(rollout::Args),
    #[cfg(feature = "operator")]
    Pack(pack::Args),
    #[cfg(feature = "operator")]
    Refresh(refresh::Args),
    #[cfg(feature = "operator")]
    Gc(gc::Args),
    #[cfg(feature = "compress")]
    Quantize(Box<compress::quantize::Args>),
    #[cfg(feature = "compress")]
    Prune(Box<compress::prune::Args>),
    #[cfg(feature = "compress")]
    Distil(Box<compress::distil::Args>),
    #[cfg(feature = "compress")]
    Finetune(Box<compress::finetune::Args>),
    #[cfg(feature = "compress")]
    Compress(compress::pipeline::Args),
    #[cfg(feature = "compress")]
    Eval(compress::eval::Args),
    #[cfg(feature = "compress")]
    Compare(compress::compare::Args),
}

impl Command {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Engine(args) => run(roles::engine(&args)),
            Self::Link(args) => run(roles::link(&args)),
            Self::Forward(args) => run(roles::forward(&args)),
            Self::Run(args) => run(roles::run(&args)),
            Self::Check(args) => check::run(&args),
            Self::Inspect(args) => inspect::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Ledger(args) => ledger::run(&args),
            Self::Audit(args) => audit::run(&args),
            Self::Status(args) => run(status::run(&args)),
            Self::Provision(args) => provision::run(*args).map(|()| ExitCode::SUCCESS),
            #[cfg(feature = "operator")]
            Self::Fleet(args) => run(fleet::run(args)),
            #[cfg(feature = "operator")]
            Self::Demo(args) => run(demo::run(&args)),
            #[cfg(feature = "operator")]
            Self::Trust(args) => run(succeed(trust::run(args))),
            #[cfg(feature = "operator")]
            Self::Publish(args) => run(publish::run_and_watch(args)),
            #[cfg(feature = "operator")]
            Self::Rollout(args) => run(rollout::run(args)),
            #[cfg(feature = "operator")]
            Self::Pack(args) => run(succeed(pack::run(args))),
            #[cfg(feature = "operator")]
            Self::Refresh(args) => run(succeed(refresh::run(args))),
            #[cfg(feature = "operator")]
            Self::Gc(args) => run(succeed(gc::run(args))),
            #[cfg(feature = "compress")]
            Self::Quantize(args) => compress::quantize::run(&args),
            #[cfg(feature = "compress")]
            Self::Prune(args) => compress::prune::run(&args),
            #[cfg(feature = "compress")]
            Self::Distil(args) => compress::distil::run(&args),
            #[cfg(feature = "compress")]
            Self::Finetune(args) => compress::finetune::run(*args),
            #[cfg(feature = "compress")]
            Self::Compress(args) => compress::pipeline::run(&args),
            #[cfg(feature = "compress")]
            Self::Eval(args) => compress::eval::run(&args),
            #[cfg(feature = "compress")]
            Self::Compare(args) => compress::compare::run(&args),
        }
    }
}

/// On threads of their own, until the command is done.
fn run(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(command)
}

/// Done without an error is success.
#[cfg(feature = "operator")]
async fn succeed(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    command.await.map(|()| ExitCode::SUCCESS)
}

/// What `selvedged`, the name that the package gives a device's daemon, shows in its help.
const DEVICE: [&str; 10] =
    ["engine", "link", "run", "check", "inspect", "bench", "ledger", "audit", "status", "provision"];

/// Reads the command line, runs the command, tells how it ended.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(error) => {
            if let Some(hint) = left_out(&args) {
                // Nobody may be left to read it.
                let _ = writeln!(io::stderr(), "{hint}");
            }
            return usage(&error);
        }
    };
    match cli.command.run() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = write!(io::stderr(), "{}", told(&error));
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let called = args.first().map(Path::new).and_then(Path::file_name);
    if called == Some(OsStr::new("selvedged")) {
        let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for name in names.iter().filter(|name| !DEVICE.contains(&name.as_str())) {
            command = command.mut_subcommand(name, |c| c.hide(true));
        }
        command = command.name("selvedged").bin_name("selvedged").about("The roles of a Selvedge device");
    }
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

/// Commands of the feature `compress`.
const COMPRESS: [&str; 7] = ["quantize", "prune", "distil", "finetune", "compress", "eval", "compare"];

/// What to say of a command that there is, but not in this build.
fn left_out(args: &[OsString]) -> Option<String> {
    let name = args.get(1)?.to_str().filter(|name| COMPRESS.contains(name) && !cfg!(feature = "compress"))?;
    Some(format!("{name} is left out of this build: cargo build --release --features compress"))
}

fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Where the configuration is.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArg {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = Config::PATH)]
    pub config: PathBuf,
}

impl ConfigArg {
    pub fn load(&self) -> anyhow::Result<Config> {
        Config::load(&RealDisk, &self.config).map_err(anyhow::Error::from)
    }
}

/// What failed, with what to do about it: `result.map_err(|e| advise(e, "open the board", "is it on?"))`.
pub fn advise(error: impl Into<anyhow::Error>, what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    error.into().context(Advice { what: what.into(), hint: hint.into() })
}

#[derive(Debug)]
struct Advice {
    what: String,
    hint: String,
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

/// `selvedge: what: cause: cause`, and the hint below it. A cause that the error before it repeats is left out.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::from("selvedge");
    let mut last = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !last.contains(&cause) {
            text += &format!(": {cause}");
            last = cause;
        }
    }
    text.push('\n');
    if let Some(advice) = error.downcast_ref::<Advice>() {
        text += &format!("hint: {}\n", advice.hint);
    }
    text
}

/// Writes to standard output; a reader that has left (`| head`) ends the command quietly.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
    Ok(())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Cli, clap::Error> {
        parse(&words.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    /// True when the command, or one below it, shows how it is called.
    fn has_example(command: &mut clap::Command, called: &str) -> bool {
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{called}: {} is not explained", arg.get_id());
        }
        assert!(command.get_about().is_some(), "{called} is not explained");
        let help = command.render_long_help().to_string();
        let own = help.contains("Example") && help.contains(called);
        let below = command.get_subcommands_mut().filter(|c| c.get_name() != "help");
        let below = below.map(|c| (format!("{called} {}", c.get_name()), c));
        below.fold(own, |found, (called, c)| has_example(c, &called) || found)
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands_mut().filter(|c| c.get_name() != "help") {
            let called = format!("selvedge {}", command.get_name());
            assert!(has_example(command, &called), "{called} has no example");
        }
        Cli::command().debug_assert();
    }

    #[test]
    fn both_names_take_the_devices_commands() {
        assert!(parse_words("/usr/bin/selvedged check").is_ok());
        assert!(parse_words("./selvedge ledger --last 5").is_ok());
        assert_eq!(parse_words("selvedge chek").unwrap_err().exit_code(), 2);
        assert_eq!(parse_words("selvedged").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_command_that_is_left_out_is_told_how_to_get() {
        let told = left_out(&["selvedge".into(), "quantize".into()]);
        assert_eq!(told.is_some_and(|told| told.contains("--features compress")), !cfg!(feature = "compress"));
        assert_eq!(left_out(&["selvedge".into(), "quantise".into()]), None);
        assert_eq!(left_out(&["selvedge".into()]), None);
        for name in COMPRESS.iter().filter(|_| cfg!(feature = "compress")) {
            assert!(Cli::command().find_subcommand(name).is_some(), "{name}");
        }
    }

    #[test]
    fn an_error_is_told_once_with_its_causes_and_a_hint() {
        #[derive(Debug, thiserror::Error)]
        #[error("read it: {0}")]
        struct Wordy(#[source] io::Error);
        let error = advise(Wordy(io::Error::other("no luck")), "show the ledger", "start the link");
        assert_eq!(told(&error), "selvedge: show the ledger: read it: no luck\nhint: start the link\n");
        assert_eq!(told(&anyhow::anyhow!("plain")), "selvedge: plain\n");
    }
}
