//! What was stopped stays signed beside what replaces it: a board that was off must hear of it when it is back.
//!
//! Invariant: a target that is paused, withdrawn or called back goes only when its version is published again to the same
//! audience, or when more than `MAX` of that audience were stopped after it.

use super::current::Entries;
use crate::trust::Hold;
use crate::trust::author::TargetEntry;

/// For one model and audience: each is a few hundred bytes of metadata, and holds its chunks on the board.
const MAX: usize = 8;

/// Offers it under that name; what stood there and was stopped goes to a name of its own, where those may be signed.
pub(super) fn replace(entries: &mut Entries, name: String, entry: TargetEntry, may: impl Fn(&str) -> bool) {
    let version = entry.custom.version;
    let is_still_held = |old: &TargetEntry| old.custom.hold.is_some() && old.custom.version != version;
    entries.retain(|other, old| !is_beside(other, &name) || is_still_held(old));
    let replaced = entries.insert(name.clone(), entry).filter(is_still_held);
    if let Some(mut old) = replaced {
        let beside = format!("{name}.{}", old.custom.version);
        // Nobody is to come to it any more.
        old.custom.deltas.clear();
        if may(&beside) {
            entries.insert(beside, old);
        }
    }
    forget_oldest(entries, &name);
}

/// Targets' own names have no dot after the audience's digest.
fn is_beside(other: &str, name: &str) -> bool {
    other.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| rest.parse::<u32>().is_ok())
}

fn forget_oldest(entries: &mut Entries, name: &str) {
    let weight = |entry: &TargetEntry| {
        let weight = match entry.custom.hold {
            None | Some(Hold::Paused) => 0,
            Some(Hold::Withdrawn) => 1,
            Some(Hold::Recalled) => 2,
        };
        (weight, entry.custom.published)
    };
    let beside = entries.iter().filter(|(other, _)| is_beside(other, name));
    let mut beside: Vec<_> = beside.map(|(other, entry)| (weight(entry), other.clone())).collect();
    beside.sort();
    for (_, other) in beside.iter().rev().skip(MAX) {
        entries.remove(other);
    }
}
