//! All roles on one console: this executable again, once for each role.

use crate::config::Config;
use crate::sys;
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// What a child process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Engine,
    Link,
    Forward,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Engine, Self::Link, Self::Forward];

    /// The subcommand.
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Link => "link",
            Self::Forward => "forward",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("start the {0} process")]
    Spawn(&'static str, #[source] io::Error),
    #[error("wait for the {0} process")]
    Wait(&'static str, #[source] io::Error),
    #[error("the {role} process ended {times} times within a minute ({status}); its log lines above say why")]
    Flapping { role: &'static str, times: u32, status: std::process::ExitStatus },
    #[error("make the directory {path}")]
    Directory { path: std::path::PathBuf, source: io::Error },
}

/// One role, running. Dropped, it is killed.
#[derive(Debug)]
pub struct Child {
    role: Role,
    process: tokio::process::Child,
}

/// A child that does not end by itself within this is killed.
const PATIENCE: Duration = Duration::from_secs(15);

impl Child {
    /// Starts this executable as `role`; `log` takes its standard error.
    pub fn spawn(role: Role, config: &Path, log: Stdio) -> Result<Self, SuperviseError> {
        let failed = |e| SuperviseError::Spawn(role.name(), e);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::from(sys::command(&program));
        command.arg(role.name()).arg("--config").arg(config).arg("--with-parent");
        // Its own process group: a Ctrl-C on the console goes to the parent, which stops it in order.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true).process_group(0);
        Ok(Self { role, process: command.spawn().map_err(failed)? })
    }

    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    pub async fn wait(&mut self) -> Result<std::process::ExitStatus, SuperviseError> {
        self.process.wait().await.map_err(|e| SuperviseError::Wait(self.role.name(), e))
    }

    /// Asks it to end, waits, and kills it when it does not.
    pub async fn stop(&mut self) -> Result<(), SuperviseError> {
        let pid = self.process.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself just now.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if timeout(PATIENCE, self.process.wait()).await.is_err() {
            warn!(role = self.role.name(), "does not end: killed");
            self.process.kill().await.map_err(|e| SuperviseError::Wait(self.role.name(), e))?;
        }
        Ok(())
    }
}

/// Runs all roles until `shutdown`. One that ends is started again; one that keeps ending ends all.
pub async fn supervise(config: &Config, file: &Path, shutdown: impl Future<Output = ()>) -> Result<(), SuperviseError> {
    make_directories(config)?;
    let start = |role| Child::spawn(role, file, Stdio::inherit());
    let mut engine = (start(Role::Engine)?, Flaps::default());
    let mut link = (start(Role::Link)?, Flaps::default());
    let mut forward = (start(Role::Forward)?, Flaps::default());
    info!(proxy = %config.proxy.listen, socket = %config.engine.socket.display(), "running on this console");
    tokio::pin!(shutdown);
    let result = loop {
        let (ended, status) = tokio::select! {
            () = &mut shutdown => break Ok(()),
            status = engine.0.wait() => (&mut engine, status?),
            status = link.0.wait() => (&mut link, status?),
            status = forward.0.wait() => (&mut forward, status?),
        };
        let role = ended.0.role;
        let times = ended.1.add();
        warn!(role = role.name(), %status, "ended: starting it again");
        if times > MAX_FLAPS {
            break Err(SuperviseError::Flapping { role: role.name(), times, status });
        }
        sleep(Duration::from_millis(500)).await;
        ended.0 = start(role)?;
    };
    forward.0.stop().await?;
    engine.0.stop().await?;
    link.0.stop().await?;
    result
}

const MAX_FLAPS: u32 = 4;

/// How often a child ended within the last minute.
#[derive(Debug, Default)]
struct Flaps {
    since: Option<Instant>,
    times: u32,
}

impl Flaps {
    fn add(&mut self) -> u32 {
        let fresh = self.since.is_some_and(|since| since.elapsed() < Duration::from_secs(60));
        if !fresh {
            *self = Self { since: Some(Instant::now()), times: 0 };
        }
        self.times += 1;
        self.times
    }
}

/// Under systemd the units make them.
fn make_directories(config: &Config) -> Result<(), SuperviseError> {
    let sockets = [&config.engine.socket, &config.engine.link_socket].map(|path| path.parent());
    let states = [Some(config.engine.state.as_path()), Some(config.link.state.as_path())];
    for dir in sockets.into_iter().chain(states).flatten() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| SuperviseError::Directory { path: dir.to_owned(), source })?;
    }
    Ok(())
}
