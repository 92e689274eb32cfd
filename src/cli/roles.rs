//! `engine`, `link`, `forward`, `run`: the roles of a device.

use super::{ConfigArg, start_logging};
use crate::device;
use crate::serve;
use std::process::ExitCode;

/// Runs the engine: models, updates, the local API. Has no network.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  selvedge engine --config /etc/selvedge/selvedge.toml\n\nUnder systemd: systemctl start selvedge-engine"
)]
pub struct Engine {
    #[command(flatten)]
    role: RoleArgs,
}

/// Runs the link: talks to the broker, sees no tensor.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  selvedge link --config /etc/selvedge/selvedge.toml\n\nUnder systemd: systemctl start selvedge-link"
)]
pub struct Link {
    #[command(flatten)]
    role: RoleArgs,
}

/// Forwards the loopback address of the configuration to the API's Unix socket.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  selvedge forward --config /etc/selvedge/selvedge.toml\n\nUnder systemd: systemctl enable --now selvedge-proxy.socket"
)]
pub struct Forward {
    #[command(flatten)]
    role: RoleArgs,
}

/// Runs engine, link and forwarder on this console, for development; Ctrl-C ends all three.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  selvedge run --config my.toml\n  curl http://127.0.0.1:8000/v2/models")]
pub struct Run {
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, clap::Args)]
struct RoleArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    with_parent: bool,
}

impl RoleArgs {
    fn load(&self) -> anyhow::Result<crate::config::Config> {
        if self.with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        }
        let config = self.config.load()?;
        start_logging(&config.log)?;
        Ok(config)
    }
}

pub async fn engine(args: &Engine) -> anyhow::Result<ExitCode> {
    let config = args.role.load()?;
    device::run_engine(&config, device::stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn link(args: &Link) -> anyhow::Result<ExitCode> {
    let config = args.role.load()?;
    device::run_link(&config, device::stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn forward(args: &Forward) -> anyhow::Result<ExitCode> {
    let config = args.role.load()?;
    serve::forward(config.proxy.listen, &config.engine.socket, device::stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn run(args: &Run) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    start_logging(&config.log)?;
    device::supervise(&config, &args.config.config, device::stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}
