//! Channels that live and die together: an id for each position along an axis, united where operators tie them.
//!
//! Invariant: positions of one class are removed together or not at all; a frozen class is never removed, and says why.
//! Not here: which operators tie what (`follow`).

use std::sync::Arc;

/// A channel, before it is known what it is tied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u32);

/// What the positions along an axis are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Axis {
    /// Of a constant that nothing has read yet: it becomes what its reader needs.
    Free,
    /// Its positions stay.
    Plain,
    /// One id a position.
    Ids(Arc<[Id]>),
}

impl Axis {
    pub fn ids(&self) -> Option<&Arc<[Id]>> {
        if let Self::Ids(ids) = self { Some(ids) } else { None }
    }
}

/// Classes of ids, by union and find (Tarjan, 1975).
#[derive(Debug, Clone)]
pub struct Classes {
    parents: Vec<Id>,
    /// Of roots: why they stay.
    frozen: Vec<Option<Arc<str>>>,
}

impl Default for Classes {
    fn default() -> Self {
        Self { parents: vec![Self::FIXED], frozen: vec![Some("it is joined with channels that stay".into())] }
    }
}

impl Classes {
    /// A position that stays, beside others that need not.
    pub const FIXED: Id = Id(0);

    /// So many new ones.
    pub fn fresh(&mut self, count: usize) -> Arc<[Id]> {
        let start = self.parents.len() as u32;
        let ids: Arc<[Id]> = (start..start + count as u32).map(Id).collect();
        self.parents.extend(ids.iter());
        self.frozen.resize(self.parents.len(), None);
        ids
    }

    /// The id that stands for the class: the smallest.
    pub fn find(&self, mut id: Id) -> Id {
        while self.parents[id.0 as usize] != id {
            id = self.parents[id.0 as usize];
        }
        id
    }

    pub fn unite(&mut self, a: Id, b: Id) {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return;
        }
        let (root, other) = (a.min(b), a.max(b));
        let reason = self.frozen[root.0 as usize].take().or(self.frozen[other.0 as usize].take());
        self.parents[other.0 as usize] = root;
        self.frozen[root.0 as usize] = reason;
    }

    /// Position by position.
    pub fn unite_all(&mut self, a: &[Id], b: &[Id]) {
        a.iter().zip(b).for_each(|(&a, &b)| self.unite(a, b));
    }

    /// All of them in one class.
    pub fn merge(&mut self, ids: impl IntoIterator<Item = Id>) {
        let mut ids = ids.into_iter();
        if let Some(first) = ids.next() {
            ids.for_each(|id| self.unite(first, id));
        }
    }

    /// The first reason is kept.
    pub fn freeze(&mut self, ids: &[Id], why: &str) {
        for &id in ids {
            let root = self.find(id);
            self.frozen[root.0 as usize].get_or_insert_with(|| why.into());
        }
    }

    /// Why the class stays; `None` where it need not.
    pub fn frozen(&self, id: Id) -> Option<&str> {
        self.frozen[self.find(id).0 as usize].as_deref()
    }

    /// Paths shortened, to ask quickly from now on.
    pub fn settle(&mut self) {
        for at in 0..self.parents.len() {
            self.parents[at] = self.parents[self.parents[at].0 as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_united_is_frozen_together_for_the_first_reason() {
        let mut classes = Classes::default();
        let (a, b) = (classes.fresh(3), classes.fresh(3));
        classes.unite_all(&a, &b);
        classes.freeze(&b[1..2], "first");
        classes.unite(a[1], a[2]);
        classes.freeze(&a[2..], "second");
        classes.settle();
        assert_eq!([a[0], b[0], a[1], b[2]].map(|id| classes.frozen(id)), [None, None, Some("first"), Some("first")]);
        assert_eq!(classes.find(b[0]), classes.find(a[0]));
        assert_ne!(classes.find(b[0]), classes.find(a[1]));
        classes.unite(a[0], Classes::FIXED);
        assert!(classes.frozen(b[0]).is_some());
    }
}
