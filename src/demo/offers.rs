//! Five offers that a device must refuse.

use super::camera::{adapted, plain, release};
use super::error::DemoError;
use super::stage::{GROUP, Operator};
use crate::bundle::topics;
use crate::privacy::Code;
use crate::publish::{Audience, InitOptions, Publication, PublishOptions, Repository};
use std::path::Path;

/// What is wrong with an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    WrongKey,
    ChangedBytes,
    WrongAnswers,
    StaleMetadata,
    OlderVersion,
}

impl Bad {
    pub(super) const ALL: [Self; 5] =
        [Self::WrongKey, Self::ChangedBytes, Self::WrongAnswers, Self::StaleMetadata, Self::OlderVersion];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::WrongKey => "signed by a wrong key",
            Self::ChangedBytes => "bytes changed on the way",
            Self::WrongAnswers => "answers its golden samples wrong",
            Self::StaleMetadata => "a stale set of metadata",
            Self::OlderVersion => "an older version",
        }
    }

    /// The reason that the device must give.
    pub(super) fn expected(self) -> Code {
        match self {
            Self::WrongKey => Code::BadSignature,
            Self::ChangedBytes => Code::DigestMismatch,
            Self::WrongAnswers => Code::GoldenMismatch,
            Self::StaleMetadata => Code::StaleMetadata,
            Self::OlderVersion => Code::Downgrade,
        }
    }
}

/// What the attackers have in their hands.
#[derive(Debug)]
pub(super) struct Attackers {
    /// Keys of their own.
    thief: Repository,
    /// The operator's directory as it was before the update: a backup that somebody restores.
    backup: std::path::PathBuf,
    /// What the board showed before the update.
    recording: Publication,
}

impl Attackers {
    /// Before the good update is published.
    pub(super) fn prepare(dir: &Path, operator: &Operator) -> Result<Self, DemoError> {
        let thief = Repository::init(&dir.join("thief"), &InitOptions::default())?;
        let backup = dir.join("backup");
        copy(&dir.join("operator"), &backup)?;
        Ok(Self { thief, backup, recording: operator.repository.everything()? })
    }

    /// Makes the offer.
    pub(super) async fn offer(&mut self, bad: Bad, operator: &mut Operator) -> Result<(), DemoError> {
        match bad {
            Bad::WrongKey => {
                let publication = outnumber(&mut self.thief, 3)?;
                operator.upload(&publication).await?;
            }
            Bad::ChangedBytes => {
                let bundle = release(adapted(), 3, "changed on the way")?;
                // A board with a delta would never see the chunk that is changed.
                let options = PublishOptions { deltas: 0, ..PublishOptions::default() };
                let mut publication = operator.repository.publish(&bundle, &Audience::group(GROUP), &options)?;
                change_a_chunk(&mut publication);
                // The operator does not see it and takes it for done.
                operator.publish(&publication).await?;
            }
            Bad::WrongAnswers => {
                let mut files = adapted();
                files.extend(plain().remove("model.onnx").map(|model| ("model.onnx".to_owned(), model)));
                let publication = publish(&mut operator.repository, &release(files, 4, "claims to be adapted")?)?;
                operator.publish(&publication).await?;
            }
            Bad::StaleMetadata => operator.upload(&self.recording).await?,
            Bad::OlderVersion => {
                let mut restored = Repository::open(&self.backup)?;
                let publication = outnumber(&mut restored, 1)?;
                operator.upload(&publication).await?;
            }
        }
        Ok(())
    }
}

fn publish(repository: &mut Repository, bundle: &crate::bundle::Bundle) -> Result<Publication, DemoError> {
    Ok(repository.publish(bundle, &Audience::group(GROUP), &PublishOptions::default())?)
}

/// Publishes often enough that the metadata's own versions are above all that the device has seen.
fn outnumber(repository: &mut Repository, version: u32) -> Result<Publication, DemoError> {
    const MORE_THAN_THE_STORY_NEEDS: usize = 12;
    let bundle = release(plain(), version, "not from here")?;
    let mut publication = publish(repository, &bundle)?;
    for i in 0..MORE_THAN_THE_STORY_NEEDS {
        let percent = if i % 2 == 0 { 99 } else { 100 };
        let audience = Audience { percent, ..Audience::group(GROUP) };
        publication = repository.publish(&bundle, &audience, &PublishOptions::default())?;
    }
    Ok(publication)
}

/// Flips one bit in the first chunk: the node behind it keeps its digest.
fn change_a_chunk(publication: &mut Publication) {
    let prefix = topics::chunk(&crate::bundle::Digest::of(b""));
    let prefix = &prefix[..prefix.len() - 64];
    let chunk = publication.posts.iter_mut().find(|post| post.topic.starts_with(prefix));
    if let Some(byte) = chunk.and_then(|post| post.bytes.last_mut()) {
        *byte ^= 1;
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), DemoError> {
    let failed = |source| DemoError::File { path: from.to_owned(), source };
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target).map_err(failed)?;
        }
    }
    Ok(())
}
