//! Why the story could not be told to its end.

use super::client::ClientError;
use crate::bundle::PackError;
use crate::device::SuperviseError;
use crate::mqtt;
use crate::privacy::LedgerError;
use crate::publish::RepositoryError;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("start the embedded broker")]
    Broker(#[source] io::Error),
    #[error("write {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{0} is there and not empty; --keep takes a new directory")]
    NotEmpty(PathBuf),
    #[error("the system gives no random numbers")]
    Random,
    #[error("the embedded images do not read")]
    Images(#[from] safetensors::SafeTensorError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Child(#[from] SuperviseError),
    #[error("the {0} process ended early ({1}); run again with --keep DIR and look at DIR/{0}.log")]
    Ended(&'static str, ExitStatus),
    #[error("{0} in time; run again with --keep DIR and look at the logs there")]
    Late(&'static str),
    #[error("start the operator's session")]
    Session(#[from] mqtt::StartError),
    #[error("post to the board")]
    Post(#[from] mqtt::PublishError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
