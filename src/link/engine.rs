//! The connection to the engine's socket: dial, read, write, dial again.
//!
//! Invariant: frames are read by one task and written by another, neither of which is cancelled
//! within a frame; an engine that floods is read slowly.

use crate::ipc::{FrameError, ToEngine, ToLink, read_frame, write_frame};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Frames a second that an engine may send; a fast fetch takes some hundreds.
const PACE: u32 = 1000;

/// What happens at the engine's side.
#[derive(Debug)]
pub(super) enum EngineEvent {
    /// Connected; dropping the sender hangs up.
    Up(mpsc::Sender<ToEngine>),
    Frame(ToLink),
    Down,
}

/// Dials for ever; ends when nobody listens to the events.
pub(super) async fn dial(socket: PathBuf, events: mpsc::Sender<EngineEvent>) {
    let mut wait = FIRST_WAIT;
    loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => {
                let start = Instant::now();
                let why = converse(stream, &events).await;
                tracing::info!("the engine is gone: {why}");
                if events.send(EngineEvent::Down).await.is_err() {
                    return;
                }
                // One that we hang up on at once is not dialled at once again.
                if start.elapsed() >= LONGEST_WAIT {
                    wait = FIRST_WAIT;
                }
            }
            Err(e) => tracing::debug!("no engine at {}: {e}", socket.display()),
        }
        if events.is_closed() {
            return;
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// One connection, to its end: why it ended.
async fn converse(stream: UnixStream, events: &mpsc::Sender<EngineEvent>) -> FrameError {
    let (read, write) = stream.into_split();
    let (sender, outgoing) = mpsc::channel(4);
    if events.send(EngineEvent::Up(sender)).await.is_err() {
        return FrameError::Closed;
    }
    // When one direction ends, the connection does; only then is the other's frame cut.
    tokio::select! {
        why = read_all(read, events) => why,
        why = write_all(write, outgoing) => why,
    }
}

async fn read_all(mut read: OwnedReadHalf, events: &mpsc::Sender<EngineEvent>) -> FrameError {
    let (mut since, mut count) = (Instant::now(), 0);
    loop {
        let frame = match read_frame::<ToLink>(&mut read).await {
            Ok(frame) => frame,
            Err(e) => return e,
        };
        if events.send(EngineEvent::Frame(frame)).await.is_err() {
            return FrameError::Closed;
        }
        count += 1;
        if count >= PACE {
            sleep(Duration::from_secs(1).saturating_sub(since.elapsed())).await;
            (since, count) = (Instant::now(), 0);
        }
    }
}

async fn write_all(mut write: OwnedWriteHalf, mut outgoing: mpsc::Receiver<ToEngine>) -> FrameError {
    while let Some(message) = outgoing.recv().await {
        if let Err(e) = write_frame(&mut write, &message).await {
            return e;
        }
    }
    FrameError::Closed
}
