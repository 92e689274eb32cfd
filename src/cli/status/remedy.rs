//! What to do about each code, in a few words; `docs/outcomes.md` has the whole of it.

use crate::privacy::{Code, WaitsFor};

/// Nothing for `Ok`.
pub(in crate::cli) fn remedy(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::Ok => return None,
        Code::BadSignature => {
            "not signed by the keys that this device trusts: was it published from the repository of its root.json? else look at who can write to the broker"
        }
        Code::StaleMetadata => "an older set was put back on the board: `selvedge refresh --all --broker ...`",
        Code::Expired => {
            "past its date: `selvedge refresh`, from a timer best; the model serves on, only new offers wait"
        }
        Code::BadMetadata => {
            "not of the known form: `selvedge refresh --all --broker ...`, then look at who can write to the broker"
        }
        Code::Downgrade => {
            "not newer than what is live: raise `version`, or `selvedge publish --allow-downgrade` where going back is meant"
        }
        Code::Quarantined => {
            "these very bytes failed here before: publish a corrected version, or the same once more with --retry"
        }
        Code::Withdrawn => "you took it back: publish a corrected version; `selvedge rollout show` says which",
        Code::RuntimeTooOld => "it asks for a newer Selvedge: update the device, or lower `runtime` in manifest.toml",
        Code::DigestMismatch => {
            "bytes on the board are not those that were signed: `selvedge refresh --all --broker ...`, then look at who can write to the broker"
        }
        Code::DiskFull => "no room beside the live version: free what `expected` says where the engine's `state` is",
        Code::BadDelta => {
            "its delta did not apply here and all of it was fetched: nothing to do once; report it if it stays"
        }
        Code::BadBundle => "it does not unpack: publish from the model directory again; report it if it stays",
        Code::CannotRun => "the engine cannot run it: its log names the node; try it on a PC with the same Selvedge",
        Code::OverMemory => {
            "over its memory budget: raise `memory-mib` if the board can bear it, or make the model smaller"
        }
        Code::OverLatency => {
            "over its latency budget: is the board hot? else raise `latency-ms`, or make the model smaller"
        }
        Code::Throttled => "heat or a weak supply slows the board down: it tries again every ten minutes; cool it",
        Code::NotComparable => {
            "it takes or gives other tensors than the live version: leave [shadow] and [canary] out of manifest.toml for this one"
        }
        Code::Disagrees => {
            "too few of its answers were the live version's: is that meant? then lower `min-agreement` under [shadow]"
        }
        Code::Hangs => "an inference did not end: try it on a PC; a loop of the graph is the usual one",
        Code::GoldenMismatch => {
            "too few golden samples answered within tolerance: were they made with this very model? `atol` must allow for rounding"
        }
        Code::TooManyErrors => {
            "too many of its first requests failed: the engine's log names the errors; a changed input shape is the usual one"
        }
        Code::Crashed => {
            "the engine died while it was on trial, or again and again: `journalctl -u selvedge-engine` shows how"
        }
        Code::StorageDamaged => {
            "what was stored does not read any more: publish it again with --retry, and think of a new SD card"
        }
    })
}

/// What ends a wait.
pub(in crate::cli) fn wait_remedy(why: WaitsFor) -> &'static str {
    match why {
        WaitsFor::Pause => "you paused it: `selvedge rollout resume MODEL`",
        WaitsFor::Window => "none of its maintenance windows is open: it goes on by itself, or publish with --urgent",
        WaitsFor::Clock => {
            "it does not know the hour, and so whether a window is open: give it a time server; after three days it goes on"
        }
        WaitsFor::Busy => {
            "it has more requests than max-requests-per-minute, or cannot tell yet: it goes on when it is quiet"
        }
        WaitsFor::Heat => "it is above max-celsius: cool it",
        WaitsFor::Battery => "it runs on a battery: it goes on when it is fed",
    }
}
