//! Units, each a channel with everything that goes with it, and groups of units that the same weights make.
//!
//! Invariant: units are disjoint; every unit has weights that make it; a unit of a group may be removed without one of
//! another group.

use super::follow::{Followed, Role};
use super::ids::{Axis, Id};
use crate::onnx::graph::{Graph, Origin, ValueId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Positions along an axis of a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub value: ValueId,
    pub axis: usize,
    pub positions: Vec<usize>,
    pub role: Role,
}

/// What is removed together.
#[derive(Debug, Clone)]
pub struct Unit {
    pub id: Id,
    /// Its group's number.
    pub group: usize,
    pub slices: Vec<Slice>,
}

/// What the units of a group are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Output channels of convolutions.
    Filters,
    /// Columns of matrix products.
    Neurons,
    /// Several columns of matrix products each.
    Heads,
}

/// Units that are compared with each other.
#[derive(Debug, Clone)]
pub struct Group {
    /// Names of the nodes that make them.
    pub makers: Vec<String>,
    pub kind: Kind,
    /// Numbers of its units.
    pub units: Vec<usize>,
    /// Along the first maker's axis, those that stay included.
    pub channels: usize,
    /// The first maker's weights, and the axis that counts channels.
    pub weights: (ValueId, usize),
    /// All makers' weights and axes, with the channels along them.
    pub made: Vec<((ValueId, usize), usize)>,
}

/// Channels that cannot be removed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stays {
    pub node: String,
    pub operator: String,
    pub channels: usize,
    pub why: String,
}

#[derive(Debug, Clone, Default)]
pub struct Groups {
    pub units: Vec<Unit>,
    pub groups: Vec<Group>,
    pub stays: Vec<Stays>,
    /// Units along each axis that has nothing else: one of them stays.
    pub axes: Vec<Vec<usize>>,
}

/// Finds all units; each name of `ignored` keeps that node's channels.
pub fn groups(graph: &Graph, followed: &mut Followed, ignored: impl Fn(&str) -> bool) -> Groups {
    for &(node, value, axis) in &followed.makers.clone() {
        let name = graph.node(node).map_or("", |node| &node.name);
        if let Some(ids) = followed.ids(value, axis).cloned().filter(|_| ignored(name)) {
            followed.classes.freeze(&ids, "it is ignored, as asked for");
        }
    }
    for (_, value, axis) in followed.makers.clone() {
        let Some(ids) = followed.ids(value, axis).cloned() else { continue };
        if ids.iter().all(|&id| followed.classes.find(id) == followed.classes.find(ids[0])) {
            followed.classes.freeze(&ids, "all its channels hang together");
        }
    }
    let mut slices = slices(graph, followed);
    let mut found = Groups::default();
    let mut of_unit = BTreeMap::<Id, usize>::new();
    for &(node, value, axis) in &followed.makers {
        let (Some(node), Some(ids)) = (graph.node(node), followed.ids(value, axis)) else { continue };
        let mut free: Vec<Id> = ids.iter().map(|&id| followed.classes.find(id)).collect();
        free.retain(|&id| followed.classes.frozen(id).is_none());
        free.sort_unstable();
        free.dedup();
        // All that goes or stays as one is not to be chosen from.
        if free.len() < 2 && !free.iter().any(|id| of_unit.contains_key(id)) {
            let why =
                ids.first().and_then(|&id| followed.classes.frozen(id)).unwrap_or("all its channels hang together");
            let (node, operator) = (node.name.clone(), node.op.clone());
            found.stays.push(Stays { node, operator, channels: ids.len(), why: why.to_owned() });
            continue;
        }
        let known: Vec<usize> =
            free.iter().filter_map(|id| of_unit.get(id).map(|&unit| found.units[unit].group)).collect();
        let group =
            known.first().copied().unwrap_or_else(|| found.open(node.op.contains("Conv"), ids.len(), (value, axis)));
        for other in known.into_iter().filter(|&other| other != group) {
            found.join(other, group);
        }
        found.groups[group].makers.push(node.name.clone());
        found.groups[group].made.push(((value, axis), ids.len()));
        for id in free {
            of_unit.entry(id).or_insert_with(|| {
                found.units.push(Unit { id, group, slices: slices.remove(&id).unwrap_or_default() });
                found.groups[group].units.push(found.units.len() - 1);
                found.units.len() - 1
            });
        }
    }
    found.axes = axes(followed, &of_unit);
    found.close();
    found
}

/// Distinct sets of units along axes on which nothing else stays.
fn axes(followed: &Followed, of_unit: &BTreeMap<Id, usize>) -> Vec<Vec<usize>> {
    let all = followed.all_ids().filter_map(|ids| {
        let units = ids.iter().map(|&id| of_unit.get(&followed.classes.find(id)).copied());
        let mut units = units.collect::<Option<Vec<usize>>>()?;
        units.sort_unstable();
        units.dedup();
        Some(units)
    });
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

impl Groups {
    fn open(&mut self, convolves: bool, channels: usize, weights: (ValueId, usize)) -> usize {
        let kind = if convolves { Kind::Filters } else { Kind::Neurons };
        let (makers, units, made) = Default::default();
        self.groups.push(Group { makers, kind, units, channels, weights, made });
        self.groups.len() - 1
    }

    fn join(&mut self, from: usize, to: usize) {
        let joined = &mut self.groups[from];
        let (units, makers, made) =
            (std::mem::take(&mut joined.units), std::mem::take(&mut joined.makers), std::mem::take(&mut joined.made));
        units.iter().for_each(|&unit| self.units[unit].group = to);
        self.groups[to].units.extend(units);
        self.groups[to].makers.extend(makers);
        self.groups[to].made.extend(made);
    }

    /// Without groups that were joined to others.
    fn close(&mut self) {
        let mut numbers = Vec::new();
        let mut next = 0;
        for group in &self.groups {
            numbers.push(next);
            next += usize::from(!group.units.is_empty());
        }
        self.units.iter_mut().for_each(|unit| unit.group = numbers[unit.group]);
        self.groups.retain(|group| !group.units.is_empty());
        for group in &mut self.groups {
            let wide = |&unit: &usize| {
                self.units[unit].slices.iter().any(|slice| slice.role == Role::Makes && slice.positions.len() > 1)
            };
            if group.kind == Kind::Neurons && group.units.iter().all(wide) {
                group.kind = Kind::Heads;
            }
        }
    }

    /// Groups of one kind alone.
    pub fn keep_only(&mut self, kind: Kind) {
        let mut left = Self { stays: std::mem::take(&mut self.stays), ..Self::default() };
        let mut numbers = BTreeMap::new();
        for group in self.groups.iter().filter(|group| group.kind == kind) {
            for &unit in &group.units {
                numbers.insert(unit, left.units.len());
                left.units.push(Unit { group: left.groups.len(), ..self.units[unit].clone() });
            }
            let units = group.units.iter().map(|unit| numbers[unit]).collect();
            left.groups.push(Group { units, ..group.clone() });
        }
        // Where one of another kind stands beside them, something stays in any case.
        let renamed = |axis: &Vec<usize>| axis.iter().map(|unit| numbers.get(unit).copied()).collect::<Option<_>>();
        left.axes = self.axes.iter().filter_map(renamed).collect();
        *self = left;
    }

    /// Positions of the unit along the axis of those weights.
    pub fn width(&self, unit: usize, weights: (ValueId, usize)) -> usize {
        let own = self.units[unit].slices.iter().find(|slice| (slice.value, slice.axis) == weights);
        own.map_or(0, |slice| slice.positions.len())
    }
}

/// Of every class, what it has of each constant.
fn slices(graph: &Graph, followed: &Followed) -> BTreeMap<Id, Vec<Slice>> {
    let mut slices = BTreeMap::<Id, Vec<Slice>>::new();
    for (value, origin) in graph.values().map(|(id, value)| (id, value.origin())) {
        if !matches!(origin, Origin::Constant(_)) {
            continue;
        }
        for (axis, ids) in followed.axes(value).iter().enumerate().filter_map(|(at, axis)| Some((at, Axis::ids(axis)?)))
        {
            let role = followed.roles.get(&(value, axis)).copied().unwrap_or(Role::Keeps);
            for (position, &id) in ids.iter().enumerate() {
                let own = slices.entry(followed.classes.find(id)).or_default();
                match own.last_mut().filter(|slice| (slice.value, slice.axis) == (value, axis)) {
                    Some(slice) => slice.positions.push(position),
                    None => own.push(Slice { value, axis, positions: vec![position], role }),
                }
            }
        }
    }
    slices
}
