//! The executable under test, started through an emulator where it is not of this machine
//! (`SELVEDGE_RUNNER`, which `tests/aarch64/run` sets).

use selvedge::sys;
use std::path::Path;
use std::process::{Command, Output};

pub fn selvedge() -> Command {
    sys::command(Path::new(env!("CARGO_BIN_EXE_selvedge")))
}

/// Called where the files it names without a path would be.
pub fn run_in(dir: &Path, args: &[&str]) -> Output {
    selvedge().args(args).env_remove("SELVEDGE_ISA").current_dir(dir).output().unwrap()
}

/// What it prints, where it has to succeed.
pub fn text_in(dir: &Path, args: &[&str]) -> String {
    let output = run_in(dir, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The words that start it, for a command line of another program.
pub fn words() -> Vec<String> {
    let command = selvedge();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_str().expect("the path is text").to_owned()).collect()
}

pub fn emulated() -> bool {
    std::env::var(sys::RUNNER).is_ok_and(|runner| !runner.trim().is_empty())
}

/// A line for the section `[engine]`: an emulator passes no system call filter on to the kernel.
pub fn wall() -> &'static str {
    if emulated() { "deny-network = false\n" } else { "" }
}
