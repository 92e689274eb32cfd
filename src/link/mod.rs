//! The link role: carries what the operator published to the engine, and what the engine may tell
//! to the broker.
//!
//! Invariants: what comes from the engine is `ipc::ToLink`, which has no room for an input or a
//! result; each packet that leaves is in the ledger; the engine gets untrusted bytes, bounded, and
//! asks for them by ordinals only. Neither side can make the link grow, loop or panic.
//! Not here: trust. The link looks into metadata for names and versions, and believes nothing.

mod board;
mod bridge;
mod engine;
mod fetch;
mod noted;
mod outbox;
mod run;

pub use noted::Session;
pub use run::{LinkError, Options, run};

#[cfg(test)]
mod tests {
    use crate::ipc::{Fetch, ToLink};
    use crate::privacy::Tell;

    const SOURCES: [&str; 7] = [
        include_str!("board.rs"),
        include_str!("bridge.rs"),
        include_str!("engine.rs"),
        include_str!("fetch.rs"),
        include_str!("noted.rs"),
        include_str!("outbox.rs"),
        include_str!("run.rs"),
    ];

    #[test]
    fn the_link_has_no_type_that_can_carry_a_tensor() {
        // All that it can be told, spelled out: a new variant stops this test from compiling.
        let spelled_out = |message: &ToLink| match message {
            ToLink::Hello { protocol: _, root: _ } => {}
            ToLink::Fetch(Fetch::Nothing | Fetch::Target { ordinal: _ }) => {}
            ToLink::Fetch(Fetch::Delta { ordinal: _, delta: _ } | Fetch::Chunks { ordinals: _ }) => {}
            ToLink::Tell(Tell::Status(_) | Tell::Metrics(_)) => {}
        };
        spelled_out(&ToLink::Fetch(Fetch::Nothing));
        for source in SOURCES {
            for room in ["tensor", "engine::", "serve", "pipeline", "store", "trust"] {
                assert!(!source.contains(&format!("crate::{room}")), "link uses {room}");
            }
        }
    }

    #[test]
    fn the_engine_is_heard_in_one_place_and_in_one_type() {
        let count = |needle: &str| SOURCES.iter().map(|s| s.matches(needle).count()).sum::<usize>();
        assert_eq!(count("read_frame::<"), 1);
        assert_eq!(count("read_frame::<ToLink>"), 1);
        assert_eq!(count("UnixStream::connect"), 1);
        // What it tells goes out in one place, as JSON of the closed schema; the other is the farewell.
        assert_eq!(count(".publish("), 2);
    }
}
