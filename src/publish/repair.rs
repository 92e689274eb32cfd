//! What the board must show and does not: a look at each topic, and what to post.
//!
//! Invariant: only what is missing or other than the directory's is posted; a board that is ahead of the directory is left
//! alone, since it was another copy of the directory that signed last.
//!
//! MQTT has no word for "nothing stands there": what does not come within a while after the last that came, over a session that
//! stands, counts as missing. What is posted needlessly then does no harm, but for older metadata over newer: so the timestamp is
//! looked at first and once more at the end, with a longer wait. All of the board is read, a window of topics at a time; of what it
//! shows only digests are kept.

use super::board::{BoardError, Post, Publication};
use super::session::open;
use crate::bundle::{Digest, topics};
use crate::config;
use crate::mqtt::{Event, Handle};
use crate::trust::Role;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Topics that are asked for at a time.
const WINDOW: usize = 64;
/// After so long without anything that was asked for, the rest is not there.
const QUIET: Duration = Duration::from_secs(3);
/// The same for the one message that says whether the board is ahead.
const PATIENT: Duration = Duration::from_secs(10);
/// How long a lost session may stay away.
const AWAY: Duration = Duration::from_secs(60);

/// What the board lacks.
#[derive(Debug)]
pub struct Repair {
    /// In publishing order; empty where nothing lacks.
    pub publication: Publication,
    /// Topics that nothing stands under.
    pub missing: usize,
    /// Topics with other bytes than the directory's.
    pub wrong: usize,
    /// Topics looked at.
    pub looked: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error(transparent)]
    Board(#[from] BoardError),
    #[error("the session with the broker ended for good")]
    Ended,
    #[error("the session with the broker was lost and did not come back within {0:?}")]
    Away(Duration),
    #[error(
        "the board's timestamp.json has version {board}, this directory's has {ours}: another copy of the directory has signed since; repair from that one"
    )]
    Ahead { board: u64, ours: u64 },
}

/// Looks at every topic of `everything`. `progress` gets topics done and in all.
pub async fn lacking(
    broker: &config::Broker,
    everything: Publication,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<Repair, RepairError> {
    let (handle, events) = open(broker).await?;
    let mut look = Look { handle, events, shown: BTreeMap::new() };
    let looked = everything.posts.len();
    let mut done = 0;
    progress(done, looked);
    let timestamp = topics::tuf(Role::Timestamp.file(0));
    let timestamp: Vec<Post> = everything.posts.iter().filter(|post| post.topic == timestamp).cloned().collect();
    look.window(&timestamp, PATIENT).await?;
    is_ahead(&everything, &look.shown)?;
    for window in everything.posts.chunks(WINDOW) {
        look.window(window, QUIET).await?;
        done += window.len();
        progress(done, looked);
    }
    look.shown.retain(|topic, _| !timestamp.iter().any(|post| post.topic == *topic));
    look.window(&timestamp, PATIENT).await?;
    let Look { handle, mut events, shown } = look;
    events.close();
    handle.close().await;
    compare(everything, &shown)
}

/// What stood under a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    digest: Digest,
    /// That the metadata states.
    version: Option<u64>,
}

#[derive(Debug)]
struct Look {
    handle: Handle,
    events: mpsc::Receiver<Event>,
    shown: BTreeMap<String, Shown>,
}

impl Look {
    async fn window(&mut self, posts: &[Post], quiet: Duration) -> Result<(), RepairError> {
        for post in posts {
            self.handle.subscribe(post.topic.clone()).await;
        }
        let mut lacking = posts.iter().filter(|post| !self.shown.contains_key(&post.topic)).count();
        let mut limit = quiet;
        while lacking > 0 {
            match timeout(limit, self.events.recv()).await {
                Ok(Some(Event::Message(message))) => {
                    let is_asked = posts.iter().any(|post| post.topic == message.topic);
                    // An empty message clears a topic.
                    if is_asked && !message.bytes.is_empty() {
                        let shown = Shown { digest: Digest::of(&message.bytes), version: version(&message.bytes) };
                        lacking -= usize::from(self.shown.insert(message.topic, shown).is_none());
                    }
                }
                // A session that is lost comes back, subscribes anew, and is given what stands there again. Until then its
                // silence says nothing.
                Ok(Some(Event::Disconnected { .. })) => limit = AWAY,
                Ok(Some(Event::Connected)) => limit = quiet,
                Ok(None) => return Err(RepairError::Ended),
                Err(_) if limit == AWAY => return Err(RepairError::Away(AWAY)),
                Err(_) => break,
            }
        }
        for post in posts {
            self.handle.unsubscribe(post.topic.clone()).await;
        }
        Ok(())
    }
}

/// Of metadata, read leniently.
fn version(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct File {
        signed: Signed,
    }
    #[derive(Deserialize)]
    struct Signed {
        version: u64,
    }
    serde_json::from_slice::<File>(bytes).ok().map(|file| file.signed.version)
}

/// An error where another copy of the directory has signed since.
fn is_ahead(everything: &Publication, shown: &BTreeMap<String, Shown>) -> Result<(), RepairError> {
    let timestamp = topics::tuf(Role::Timestamp.file(0));
    let ours = everything.posts.iter().find(|post| post.topic == timestamp).and_then(|post| version(&post.bytes));
    match (ours, shown.get(&timestamp).and_then(|shown| shown.version)) {
        (Some(ours), Some(board)) if board > ours => Err(RepairError::Ahead { board, ours }),
        (_, _) => Ok(()),
    }
}

fn compare(everything: Publication, shown: &BTreeMap<String, Shown>) -> Result<Repair, RepairError> {
    let looked = everything.posts.len();
    is_ahead(&everything, shown)?;
    let (mut missing, mut wrong) = (0, 0);
    let mut posts = everything.posts;
    posts.retain(|post| match shown.get(&post.topic) {
        None => {
            missing += 1;
            true
        }
        Some(shown) => {
            let other = shown.digest != Digest::of(&post.bytes);
            wrong += usize::from(other);
            other
        }
    });
    // What was found and what is put back: all of it is on the board then.
    let publication = Publication { posts, ..everything };
    Ok(Repair { publication, missing, wrong, looked })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(topic: &str, bytes: &[u8]) -> Post {
        Post { topic: topic.into(), bytes: bytes.into() }
    }

    fn metadata(version: u32) -> Vec<u8> {
        format!("{{\"signed\":{{\"version\":{version}}},\"signatures\":[]}}").into_bytes()
    }

    fn shown(posts: &[Post]) -> BTreeMap<String, Shown> {
        let of = |bytes: &[u8]| Shown { digest: Digest::of(bytes), version: version(bytes) };
        posts.iter().map(|post| (post.topic.clone(), of(&post.bytes))).collect()
    }

    fn repository() -> Publication {
        let timestamp = post("selvedge/v1/tuf/timestamp.json", &metadata(7));
        Publication {
            posts: vec![post("a", b"1"), post("b", b"2"), post("c", b"3"), timestamp],
            ..Publication::default()
        }
    }

    #[test]
    fn what_is_missing_or_changed_goes_back_and_nothing_else_does() {
        let all = repository().posts;
        let whole = compare(repository(), &shown(&all)).unwrap();
        assert_eq!((whole.publication.posts.len(), whole.missing, whole.wrong, whole.looked), (0, 0, 0, 4));
        let board = [all[0].clone(), post("c", b"other"), all[3].clone()];
        let repair = compare(repository(), &shown(&board)).unwrap();
        assert_eq!((repair.missing, repair.wrong), (1, 1));
        assert_eq!(repair.publication.posts, [all[1].clone(), all[2].clone()]);
        assert_eq!(compare(repository(), &BTreeMap::new()).unwrap().publication.posts, all);
    }

    #[test]
    fn a_board_that_is_ahead_is_not_set_back() {
        let ahead = shown(&[post("selvedge/v1/tuf/timestamp.json", &metadata(8))]);
        assert!(matches!(compare(repository(), &ahead), Err(RepairError::Ahead { board: 8, ours: 7 })));
        // Junk under its name is no version.
        let junk = shown(&[post("selvedge/v1/tuf/timestamp.json", b"{\"signed\":{\"version\":1e99}}")]);
        assert_eq!(compare(repository(), &junk).unwrap().wrong, 1);
        let behind = shown(&[post("selvedge/v1/tuf/timestamp.json", &metadata(6))]);
        assert_eq!(compare(repository(), &behind).unwrap().publication.posts.last().unwrap().bytes, metadata(7));
    }
}
