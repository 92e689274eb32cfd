//! What answers under each name, and which candidate stands beside it.
//!
//! Invariant: a request is answered by the version that took it; reading takes no lock.

use super::beside::{Canary, Shadow};
use super::live::Live;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A candidate, and what it hears of the live version's requests.
#[derive(Debug, Clone)]
pub enum Beside {
    Shadow(Arc<Shadow>),
    Canary(Arc<Canary>),
}

#[derive(Debug, Clone)]
struct Slot {
    live: Arc<Live>,
    beside: Option<Beside>,
}

/// Who takes one request: the version that answers it, and the shadow that hears it.
#[derive(Debug, Clone)]
pub struct Taken {
    pub live: Arc<Live>,
    pub shadow: Option<Arc<Shadow>>,
}

/// The versions that serve, by the name of their model.
#[derive(Debug, Default)]
pub struct Slots {
    map: ArcSwap<BTreeMap<String, Slot>>,
    /// Writers go one by one.
    writing: Mutex<()>,
}

impl Slots {
    /// The live version.
    pub fn get(&self, name: &str) -> Option<Arc<Live>> {
        self.map.load().get(name).map(|slot| slot.live.clone())
    }

    /// For one request that names no version.
    pub fn take(&self, name: &str) -> Option<Taken> {
        let map = self.map.load();
        let slot = map.get(name)?;
        Some(match &slot.beside {
            Some(Beside::Canary(canary)) if canary.is_next() => {
                Taken { live: canary.candidate().clone(), shadow: None }
            }
            Some(Beside::Shadow(shadow)) => Taken { live: slot.live.clone(), shadow: Some(shadow.clone()) },
            Some(Beside::Canary(_)) | None => Taken { live: slot.live.clone(), shadow: None },
        })
    }

    /// From now on this one takes the requests, and nobody stands beside it. Gives back the one that did before.
    pub fn install(&self, live: Arc<Live>) -> Option<Arc<Live>> {
        let name = live.name().to_owned();
        self.change(|map| map.insert(name, Slot { live, beside: None })).map(|slot| slot.live)
    }

    /// Puts a candidate beside the live version, or takes it away. Nothing where nothing is live.
    pub fn set_beside(&self, name: &str, beside: Option<Beside>) {
        self.change(|map| {
            if let Some(slot) = map.get_mut(name) {
                slot.beside = beside;
            }
        });
    }

    pub fn beside(&self, name: &str) -> Option<Beside> {
        self.map.load().get(name)?.beside.clone()
    }

    pub fn remove(&self, name: &str) -> Option<Arc<Live>> {
        self.change(|map| map.remove(name)).map(|slot| slot.live)
    }

    /// The live versions, sorted by name.
    pub fn list(&self) -> Vec<Arc<Live>> {
        self.map.load().values().map(|slot| slot.live.clone()).collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Slot>) -> T) -> T {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = BTreeMap::clone(&self.map.load());
        let result = change(&mut map);
        self.map.store(Arc::new(map));
        result
    }
}
