//! Panics of the code below us, caught, and kept out of the log.
//!
//! The default panic message may quote values that it stumbled on, and those may come from an
//! input: of a panic in here only its place in the source is kept.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// Where in the source it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Panicked(pub String);

thread_local! {
    /// `Some` while this thread runs guarded code; then the place of its last panic.
    static GUARDED: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `work`. After an error, what `work` had borrowed mutably must not be used again.
pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    HOOK.call_once(install_hook);
    let outer = GUARDED.replace(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(work));
    let place = GUARDED.replace(outer);
    result.map_err(|_| Panicked(place.unwrap_or_default()))
}

fn install_hook() {
    let previous = take_hook();
    set_hook(Box::new(move |info| {
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), place_name);
        let note = |guarded: &RefCell<Option<String>>| {
            let mut guarded = guarded.borrow_mut();
            let is_guarded = guarded.is_some();
            if is_guarded {
                *guarded = Some(place);
            }
            is_guarded
        };
        if !GUARDED.try_with(note).unwrap_or(false) {
            previous(info);
        }
    }));
}

/// `file.rs:12` below its `src`: paths of the machine that built us say nothing to a user.
fn place_name(location: &std::panic::Location<'_>) -> String {
    let file = location.file();
    let start = file.rfind("/src/").and_then(|at| file[..at].rfind('/')).map_or(0, |slash| slash + 1);
    format!("{}:{}", &file[start..], location.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_its_place_and_nothing_else() {
        let secret = 12_345;
        let caught = catch(|| panic!("the value was {secret}")).unwrap_err();
        assert!(caught.0.contains("guard.rs:"), "{caught:?}");
        assert!(!caught.0.contains("12345"));
        assert_eq!(catch(|| 3), Ok(3));
    }

    #[test]
    fn guards_nest() {
        let outer = catch(|| {
            assert!(catch(|| panic!("inner")).is_err());
            panic!("outer")
        });
        assert!(outer.unwrap_err().0.contains("guard.rs:"));
    }
}
