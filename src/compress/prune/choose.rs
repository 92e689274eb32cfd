//! Which units go.
//!
//! Invariant: of what lies along any axis at least one unit stays; with a multiple, so many channels of each layer stay as it
//! divides, or all, unless that one is among those that were given back.

use super::groups::{Group, Groups};
use crate::compress::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Among whom units are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Each group loses the same share.
    Local,
    /// The least important of all go.
    Global,
}

/// How much of a group may go, and what has to be left.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub scope: Scope,
    /// Share of a group's units that may go at once.
    pub most: f64,
    pub multiple: usize,
}

/// Units that go when `share` of all is asked for.
pub fn chosen(groups: &Groups, importance: &[f64], terms: Terms, share: f64) -> BTreeSet<usize> {
    let count = |group: &Group| (group.units.len() as f64 * share).round() as usize;
    counted(groups, importance, terms, &count, (groups.units.len() as f64 * share).round() as usize)
}

/// Units that go when so many of each group are asked for, or so many of all where all are compared.
pub fn counted(
    groups: &Groups,
    importance: &[f64],
    terms: Terms,
    count: &dyn Fn(&Group) -> usize,
    total: usize,
) -> BTreeSet<usize> {
    let least_first = |units: &[usize]| {
        let mut units = units.to_vec();
        units.sort_by(|&a, &b| importance[a].total_cmp(&importance[b]).then(a.cmp(&b)));
        units
    };
    let limit = |count: usize| ((count as f64 * terms.most) as usize).min(count.saturating_sub(1));
    let mut gone = BTreeSet::new();
    match terms.scope {
        Scope::Local => {
            for group in &groups.groups {
                let count = count(group).min(limit(group.units.len()));
                gone.extend(least_first(&group.units).into_iter().take(count));
            }
        }
        Scope::Global => {
            let all = least_first(&(0..groups.units.len()).collect::<Vec<_>>());
            let mut left: Vec<usize> = groups.groups.iter().map(|group| limit(group.units.len())).collect();
            for unit in all {
                let left = &mut left[groups.units[unit].group];
                if *left > 0 && gone.len() < total {
                    *left -= 1;
                    gone.insert(unit);
                }
            }
        }
    }
    for group in &groups.groups {
        round(groups, group, &least_first(&group.units), terms.multiple, &mut gone);
    }
    for axis in groups.axes.iter().filter(|axis| !axis.is_empty()) {
        if axis.iter().all(|unit| gone.contains(unit)) {
            least_first(axis).last().map(|unit| gone.remove(unit));
        }
    }
    gone
}

/// Gives units back, the most important first, until so many channels of each of the group's layers stay as the multiple
/// divides, or all of them.
fn round(groups: &Groups, group: &Group, least_first: &[usize], multiple: usize, gone: &mut BTreeSet<usize>) {
    if multiple <= 1 {
        return;
    }
    let mut made = group.made.clone();
    made.sort_unstable();
    made.dedup();
    let width = |unit: usize, maker: usize| groups.width(unit, made[maker].0);
    let going: Vec<usize> = least_first.iter().copied().filter(|unit| gone.contains(unit)).collect();
    let left = |maker: usize| made[maker].1 - going.iter().map(|&unit| width(unit, maker)).sum::<usize>();
    let mut left: Vec<usize> = (0..made.len()).map(left).collect();
    let mut back = going.into_iter().rev().collect::<Vec<_>>();
    while let Some(uneven) = (0..made.len()).find(|&at| left[at] < made[at].1 && !left[at].is_multiple_of(multiple)) {
        // What went of a layer is what it lacks: there is one.
        let Some(at) = back.iter().position(|&unit| width(unit, uneven) > 0) else { return };
        let unit = back.remove(at);
        gone.remove(&unit);
        left.iter_mut().enumerate().for_each(|(maker, left)| *left += width(unit, maker));
    }
}

/// The smallest share whose cost is at most `target`, and what goes; `cost` of all that may go otherwise.
///
/// # Errors
/// As `cost` does; `Ok(Err(least))` where even the largest share costs more.
pub fn to_target(
    groups: &Groups,
    importance: &[f64],
    terms: Terms,
    target: f64,
    mut cost: impl FnMut(&BTreeSet<usize>) -> Result<f64, Error>,
) -> Result<Result<BTreeSet<usize>, f64>, Error> {
    const STEPS: usize = 14;
    let mut best = chosen(groups, importance, terms, 1.0);
    let least = cost(&best)?;
    if least > target {
        return Ok(Err(least));
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        let going = chosen(groups, importance, terms, middle);
        if cost(&going)? <= target {
            (high, best) = (middle, going);
        } else {
            low = middle;
        }
    }
    Ok(Ok(best))
}
