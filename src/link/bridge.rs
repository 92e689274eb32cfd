//! What the link does: events in, actions out. Pure.
//!
//! Invariant: an engine that does not keep to the protocol is hung up on; whatever the broker sends
//! changes at most what is subscribed, within fixed bounds, and what the engine is shown.

use super::board::Board;
use super::fetch::Fetcher;
use crate::bundle::Digest;
use crate::ipc::{Fetch, PROTOCOL, ToEngine, ToLink};
use crate::privacy::Tell;

/// What the driver is to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    Subscribe(String),
    Unsubscribe(String),
    ToEngine(ToEngine),
    Tell(Tell),
    /// A chunk came that was lacking, as often as a version has chunks: the session is worth it. Or nothing lacks any more.
    GetsOn(bool),
    /// Close the connection to the engine.
    HangUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    /// Not there, or hung up on.
    Away,
    /// Connected; its Hello has not come.
    Silent,
    Here {
        root: u32,
    },
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Bridge {
    engine: Engine,
    connected: bool,
    board: Board,
    fetcher: Fetcher,
}

impl Bridge {
    pub fn new() -> Self {
        Self { engine: Engine::Away, connected: false, board: Board::default(), fetcher: Fetcher::default() }
    }

    pub fn engine_up(&mut self) -> Vec<Action> {
        let mut out = self.engine_down();
        self.engine = Engine::Silent;
        out.push(Action::ToEngine(ToEngine::Hello { protocol: PROTOCOL }));
        out.push(Action::ToEngine(ToEngine::Connected(self.connected)));
        out
    }

    /// Without an engine nothing is wanted from the broker.
    pub fn engine_down(&mut self) -> Vec<Action> {
        let mut out = Vec::new();
        self.engine = Engine::Away;
        self.fetcher.nothing(&mut out);
        self.fetcher = Fetcher::default();
        self.board.stop(&mut out);
        out.push(Action::GetsOn(false));
        out
    }

    pub fn engine_says(&mut self, message: ToLink) -> Vec<Action> {
        let mut out = Vec::new();
        match (self.engine, message) {
            (Engine::Away, _) => {}
            (Engine::Silent | Engine::Here { .. }, ToLink::Hello { protocol, root }) if protocol == PROTOCOL => {
                self.hello(root, &mut out);
            }
            (Engine::Silent | Engine::Here { .. }, ToLink::Hello { protocol, .. }) => {
                tracing::error!("the engine speaks protocol {protocol}, the link {PROTOCOL}: restart both");
                return self.hang_up();
            }
            (Engine::Silent, ToLink::Fetch(_) | ToLink::Tell(_)) => {
                tracing::error!("the engine did not begin with its greeting: restart both");
                return self.hang_up();
            }
            (Engine::Here { .. }, ToLink::Fetch(fetch)) => self.fetch(&fetch, &mut out),
            (Engine::Here { .. }, ToLink::Tell(tell)) => out.push(Action::Tell(tell)),
        }
        out
    }

    /// A newer root may make other metadata good that was refused: all is looked at anew.
    fn hello(&mut self, root: u32, out: &mut Vec<Action>) {
        if self.engine != (Engine::Here { root }) {
            self.engine = Engine::Here { root };
            self.board.start(root, out);
        }
    }

    fn hang_up(&mut self) -> Vec<Action> {
        let mut out = self.engine_down();
        out.push(Action::HangUp);
        out
    }

    fn fetch(&mut self, fetch: &Fetch, out: &mut Vec<Action>) {
        match fetch {
            Fetch::Nothing => {
                self.fetcher.nothing(out);
                out.push(Action::GetsOn(false));
            }
            Fetch::Target { ordinal } => self.node(self.board.target(*ordinal), *ordinal, out),
            Fetch::Delta { ordinal, delta } => self.node(self.board.delta(*ordinal, *delta), *ordinal, out),
            Fetch::Chunks { ordinals } => self.fetcher.chunks(ordinals, out),
        }
    }

    fn node(&mut self, digest: Option<Digest>, ordinal: u32, out: &mut Vec<Action>) {
        match digest {
            Some(digest) => self.fetcher.target(digest, out),
            None => {
                tracing::warn!(
                    "the engine asks for target {ordinal}, or a delta of it, which the newest metadata does not have"
                );
                self.fetcher.nothing(out);
            }
        }
    }

    /// The session with the broker came about or was lost.
    pub fn session(&mut self, connected: bool) -> Vec<Action> {
        if std::mem::replace(&mut self.connected, connected) == connected || self.engine == Engine::Away {
            return Vec::new();
        }
        vec![Action::ToEngine(ToEngine::Connected(connected))]
    }

    pub fn broker_shows(&mut self, topic: &str, bytes: &[u8]) -> Vec<Action> {
        let mut out = Vec::new();
        if !self.board.message(topic, bytes, &mut out) {
            self.fetcher.message(topic, bytes, &mut out);
        }
        out
    }
}

#[cfg(test)]
mod tests;
