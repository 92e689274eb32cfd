//! Framing: four bytes of length, little-endian, then the message in postcard's encoding.

use super::message::{ToEngine, ToLink};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A message with the most bytes that its frame may have.
pub trait Message: Serialize + DeserializeOwned {
    const MAX_FRAME: u32;
}

impl Message for ToLink {
    const MAX_FRAME: u32 = 64 * 1024;
}

impl Message for ToEngine {
    /// Metadata of a fleet that is selected device by device is the largest.
    const MAX_FRAME: u32 = 2 * 1024 * 1024;
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the other side closed the connection")]
    Closed,
    #[error("read or write a frame")]
    Io(#[from] io::Error),
    #[error("a frame of {actual} bytes, the limit is {limit}")]
    TooLarge { actual: u64, limit: u32 },
    #[error("a frame that is no message of this protocol")]
    Decode(#[from] postcard::Error),
}

/// Reads the next message. Not cancel-safe: give it a task of its own.
pub async fn read_frame<M: Message>(from: &mut (impl AsyncRead + Unpin)) -> Result<M, FrameError> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(FrameError::Closed),
        Err(e) => return Err(e.into()),
    }
    let length = u32::from_le_bytes(length);
    if length > M::MAX_FRAME {
        return Err(FrameError::TooLarge { actual: length.into(), limit: M::MAX_FRAME });
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes).await?;
    Ok(postcard::from_bytes(&bytes)?)
}

pub async fn write_frame<M: Message>(to: &mut (impl AsyncWrite + Unpin), message: &M) -> Result<(), FrameError> {
    let mut frame = postcard::to_extend(message, vec![0; 4])?;
    let length = frame.len() - 4;
    let too_large = FrameError::TooLarge { actual: length as u64, limit: M::MAX_FRAME };
    let length = u32::try_from(length).ok().filter(|&l| l <= M::MAX_FRAME).ok_or(too_large)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame).await?;
    Ok(to.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::{Fetch, Role};

    #[tokio::test]
    async fn messages_go_across() {
        let message = ToEngine::Metadata { role: Role::Root, version: 3, bytes: vec![1, 2, 3] };
        let mut wire = Vec::new();
        write_frame(&mut wire, &message).await.unwrap();
        let mut from = &wire[..];
        assert_eq!(read_frame::<ToEngine>(&mut from).await.unwrap(), message);
        assert!(matches!(read_frame::<ToEngine>(&mut from).await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn a_status_goes_across_with_and_without_what_it_may_lack() {
        use crate::bundle::{Digest, ModelName};
        use crate::privacy::{AuditHead, ModelState, ModelStatus, Status, Tell};
        for (agreement, head) in [(None, None), (Some(0.5), Some(AuditHead { number: 7, sha256: Digest::of(b"7") }))] {
            let model = ModelName::new("digits").unwrap();
            let state = ModelState::Idle;
            let model = ModelStatus {
                model,
                live: Some(1),
                previous: None,
                state,
                candidate: None,
                agreement,
                waits_for: None,
            };
            let status = Status { models: vec![model; 2], audit: head, time: 9, ..Status::default() };
            let message = ToLink::Tell(Tell::Status(Box::new(status)));
            let mut wire = Vec::new();
            write_frame(&mut wire, &message).await.unwrap();
            assert_eq!(read_frame::<ToLink>(&mut &wire[..]).await.unwrap(), message);
        }
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        let huge = u32::MAX.to_le_bytes();
        let read = read_frame::<ToEngine>(&mut &huge[..]).await;
        assert!(matches!(read, Err(FrameError::TooLarge { .. })));

        let nonsense = [2, 0, 0, 0, 0xff, 0xff];
        let read = read_frame::<ToEngine>(&mut &nonsense[..]).await;
        assert!(matches!(read, Err(FrameError::Decode(_))));

        // A list that claims four billion entries costs no memory.
        let claim = [7, 0, 0, 0, 1, 2, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(read_frame::<ToLink>(&mut &claim[..]).await.is_err());

        let large = ToLink::Fetch(Fetch::Chunks { ordinals: vec![u32::MAX; 70_000] });
        let written = write_frame(&mut Vec::new(), &large).await;
        assert!(matches!(written, Err(FrameError::TooLarge { .. })));
    }
}
