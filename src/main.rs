//! `selvedge`, and `selvedged` on a device: see `selvedge::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    selvedge::cli::main()
}
