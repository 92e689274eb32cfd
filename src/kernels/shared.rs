//! Packed weights that several products have in common: the same model made ready for another shape.
//!
//! Invariant: what is shared is equal byte by byte, and nobody writes to it.

use super::pack::{Line, Lines};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Weights that are in use. Those that nobody uses any more are forgotten.
#[derive(Debug, Default)]
pub struct SharedWeights {
    /// By hash: a key of this process, so that no file makes many of them alike.
    known: Mutex<HashMap<u64, Weak<Vec<Line>>>>,
    hasher: RandomState,
}

impl SharedWeights {
    /// How many there are.
    pub fn in_use(&self) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|weights| weights.strong_count() > 0).count()
    }

    /// Lets these be the equal ones that are in use, if there are such.
    pub(super) fn join(&self, lines: &mut Lines) {
        let hash = self.hasher.hash_one(lines.values());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&hash).and_then(Weak::upgrade) {
            Some(other) if lines.is_equal(&other) => lines.lines = other,
            Some(_) => {}
            None => {
                // Whoever joins when the table is full makes room.
                if known.len() == known.capacity() {
                    known.retain(|_, weights| weights.strong_count() > 0);
                }
                known.insert(hash, Arc::downgrade(&lines.lines));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(first: i8) -> Lines {
        let mut lines = Lines::zeroed(130);
        lines.values_mut()[..2].copy_from_slice(&[first, 7]);
        lines
    }

    #[test]
    fn equal_weights_become_one_and_a_copy_is_its_own() {
        let shared = SharedWeights::default();
        let (mut a, mut b, mut c) = (lines(1), lines(1), lines(2));
        [&mut a, &mut b, &mut c].into_iter().for_each(|lines| shared.join(lines));
        assert!(Arc::ptr_eq(&a.lines, &b.lines) && !Arc::ptr_eq(&a.lines, &c.lines));
        let mut own = a.clone();
        own.values_mut()[0] = 9;
        assert_eq!((own.values()[0], a.values()[0], b.values()[0]), (9, 1, 1));
        drop((a, b));
        let mut again = lines(1);
        shared.join(&mut again);
        assert_eq!(shared.in_use(), 2, "what nobody uses is forgotten");
    }
}
