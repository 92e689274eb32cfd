//! Packed weights that several products have in common: the same model made ready for another shape.
//!
//! Invariant: what is shared is equal byte by byte, and nobody writes to it.

use super::pack::{Line, Lines};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Weights that are in use. Those that nobody uses any more are forgotten.
#[derive(Debug, Default)]
pub struct SharedWeights(Mutex<Vec<Weak<Vec<Line>>>>);

impl SharedWeights {
    /// How many there are.
    pub fn in_use(&self) -> usize {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|weights| weights.strong_count() > 0).count()
    }

    /// Lets these be the equal ones that are in use, if there are such.
    pub(super) fn join(&self, lines: &mut Lines) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|weights| weights.strong_count() > 0);
        match known.iter().filter_map(Weak::upgrade).find(|other| lines.is_equal(other)) {
            Some(other) => lines.lines = other,
            None => known.push(Arc::downgrade(&lines.lines)),
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
        assert_eq!(shared.0.lock().unwrap().len(), 2, "what nobody uses is forgotten");
    }
}
