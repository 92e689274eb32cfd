//! How much is gone after each step, and when to stop.
//!
//! The rule: the fewest parameters with L(θ') ≤ L(θ) + ε on held-out data. A step that breaks it is tried again from the
//! best so far, half as far; after so many tries the best stands.

use serde::{Deserialize, Serialize};

/// The way from nothing to all that is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The same each step.
    Linear,
    /// Much at first, then less and less: 1 - (1 - t)³ (Zhu and Gupta, 2017).
    #[default]
    Cubic,
}

impl Schedule {
    /// Share of the way that is behind after so many of the steps.
    pub fn at(self, step: usize, steps: usize) -> f64 {
        let t = step as f64 / steps.max(1) as f64;
        match self {
            Self::Linear => t,
            Self::Cubic => 1.0 - (1.0 - t).powi(3),
        }
    }
}

/// L(θ') ≤ L(θ) + ε.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// L(θ).
    pub base: f64,
    /// ε; none: every step is taken.
    pub rise: Option<f64>,
}

impl Rule {
    pub fn keeps(&self, loss: f64) -> bool {
        self.rise.is_none_or(|rise| loss <= self.base + rise)
    }
}

/// Where the search for the fewest parameters stands: pure, told of each step's loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    rule: Rule,
    /// Share of the way that the best network has behind it.
    reached: f64,
    /// Share of the way to try next, and whether that is an attempt after a failure.
    next: usize,
    steps: usize,
    schedule: Schedule,
    /// The lowest share that is known to break the rule.
    broken: Option<f64>,
    tries: usize,
}

/// Attempts after the first step that breaks the rule.
const TRIES: usize = 3;

impl Search {
    pub fn new(rule: Rule, schedule: Schedule, steps: usize) -> Self {
        Self { rule, reached: 0.0, next: 1, steps: steps.max(1), schedule, broken: None, tries: 0 }
    }

    /// Share of the way to try, from the best network so far; `None` when it is done.
    pub fn share(&self) -> Option<f64> {
        match self.broken {
            Some(broken) => (self.tries < TRIES).then(|| f64::midpoint(self.reached, broken)),
            None => (self.next <= self.steps).then(|| self.schedule.at(self.next, self.steps)),
        }
    }

    pub fn reached(&self) -> f64 {
        self.reached
    }

    /// Whether the whole way was gone.
    pub fn is_whole(&self) -> bool {
        self.broken.is_none() && self.next > self.steps
    }

    /// What came of the share; true where the result is the best so far.
    pub fn see(&mut self, share: f64, loss: f64) -> bool {
        let keeps = self.rule.keeps(loss);
        self.tries += usize::from(self.broken.is_some());
        if keeps {
            self.reached = share;
            self.next += usize::from(self.broken.is_none());
        } else {
            self.broken = Some(share);
        }
        keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_end_where_they_should() {
        for schedule in [Schedule::Linear, Schedule::Cubic] {
            let way: Vec<f64> = (0..=4).map(|step| schedule.at(step, 4)).collect();
            assert!(way.is_sorted() && way[0] == 0.0 && way[4] == 1.0, "{way:?}");
        }
        assert_eq!(Schedule::Cubic.at(1, 2), 0.875);
    }

    #[test]
    fn the_search_ends_at_the_farthest_share_that_keeps_the_rule() {
        // The loss rises with the share: 0.6 is the last that is allowed.
        let rule = Rule { base: 1.0, rise: Some(0.6) };
        let mut search = Search::new(rule, Schedule::Linear, 4);
        let mut best = 0.0;
        let mut tried = Vec::new();
        while let Some(share) = search.share() {
            tried.push(share);
            if search.see(share, 1.0 + share) {
                best = share;
            }
        }
        assert_eq!(tried, [0.25, 0.5, 0.75, 0.625, 0.5625, 0.59375]);
        assert_eq!((best, search.reached(), search.is_whole()), (0.59375, 0.59375, false));
        let mut free = Search::new(Rule { base: 1.0, rise: None }, Schedule::Cubic, 2);
        while let Some(share) = free.share() {
            assert!(free.see(share, f64::INFINITY));
        }
        assert!(free.is_whole() && free.reached() == 1.0);
    }
}
