//! Which steps are needed, which of them make a region together, and the graph with regions as nodes.
//!
//! Invariant: regions are convex. Each step has a level: one more than the largest number of times that a path to it
//! enters regions from float. A path that leaves a region through float comes back at a higher level, so steps of one
//! level that are connected make a convex region.

use super::super::program::{Draft, Program, Step, ValueId as Id};
use super::reason::Reason;
use super::state::{Lowering, Rep};
use super::{DOMAIN, LowerError, OPERATOR};
use crate::onnx::Tensor;
use crate::onnx::graph::{Attribute, Graph, Node, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Where a region's value lives in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outside {
    Known(ValueId),
    /// Between two regions: a value that the graph does not have yet.
    New(Id),
}

#[derive(Debug)]
struct Region {
    program: Program,
    inputs: Vec<Outside>,
    outputs: Vec<Outside>,
}

/// What is to become of a graph.
#[derive(Debug)]
pub(super) struct Plan {
    regions: Vec<Region>,
    folded: Vec<(ValueId, Tensor)>,
    /// A value that is another one.
    aliases: BTreeMap<ValueId, ValueId>,
    pub kept: Vec<(NodeId, Reason)>,
}

/// What the graph's outputs need.
#[derive(Debug, Default)]
struct Demand {
    seen: BTreeSet<ValueId>,
    queue: Vec<ValueId>,
    nodes: BTreeSet<NodeId>,
    /// Values that regions give to the graph.
    given: BTreeMap<ValueId, Id>,
    folded: Vec<(ValueId, Tensor)>,
    /// By number of step.
    steps: Vec<bool>,
}

impl Demand {
    fn want(&mut self, value: ValueId) {
        if self.seen.insert(value) {
            self.queue.push(value);
        }
    }
}

pub(super) fn plan(mut lowering: Lowering, order: &[NodeId]) -> Result<Plan, LowerError> {
    let mut demand = Demand::default();
    lowering.graph.outputs.iter().for_each(|port| demand.want(port.value));
    // What demands emit reads what is there: nothing enters from here on.
    let outside: HashMap<Id, ValueId> = lowering.entries.iter().map(|(&value, &id)| (id, value)).collect();
    while let Some(value) = demand.queue.pop() {
        want_value(&mut lowering, &mut demand, value);
        if let Some(&id) = demand.given.get(&value) {
            want_steps(&lowering, &mut demand, &outside, id);
        }
    }
    demand.steps.resize(lowering.draft.steps.len(), false);
    let aliases = aliases(&lowering, &mut demand);
    let regions = regions(&lowering, &demand, order)?;
    let reason = |id: &NodeId| (*id, lowering.reasons.get(id).cloned().unwrap_or(Reason::Output));
    let kept = order.iter().filter(|id| demand.nodes.contains(id)).map(reason).collect();
    Ok(Plan { regions, folded: demand.folded, aliases, kept })
}

/// Finds who gives a value to the graph: a region, a constant, or its own node.
fn want_value(lowering: &mut Lowering, demand: &mut Demand, value: ValueId) {
    let given = match lowering.reps.get(&value) {
        Some(Rep::Int8(id)) => Some(*id).filter(|_| !lowering.entries.contains_key(&value)),
        Some(Rep::Curve { .. } | Rep::Float(_)) => lowering.as_float(value).ok().flatten(),
        Some(Rep::Constant(_) | Rep::Dynamic(_)) | None => None,
    };
    if let Some(id) = given {
        demand.given.insert(value, id);
        return;
    }
    if let Some(tensor) = lowering.folded(value) {
        demand.folded.push((value, tensor));
        return;
    }
    if let Some((id, node)) = lowering.graph.producer(value)
        && demand.nodes.insert(id)
    {
        node.reads().for_each(|read| demand.want(read));
    }
}

/// Marks a value's step and all behind it; what enters them is wanted from the graph.
fn want_steps(lowering: &Lowering, demand: &mut Demand, outside: &HashMap<Id, ValueId>, id: Id) {
    demand.steps.resize(lowering.draft.steps.len(), false);
    let mut queue = vec![id];
    while let Some(id) = queue.pop() {
        match lowering.makers.get(&id) {
            Some(&step) if !demand.steps[step] => {
                demand.steps[step] = true;
                queue.extend(&lowering.draft.steps[step].inputs);
            }
            Some(_) => {}
            None => outside.get(&id).into_iter().for_each(|&value| demand.want(value)),
        }
    }
}

/// Values that no step makes, or that another value stands for already.
fn aliases(lowering: &Lowering, demand: &mut Demand) -> BTreeMap<ValueId, ValueId> {
    let outside: HashMap<Id, ValueId> = lowering.entries.iter().map(|(&value, &id)| (id, value)).collect();
    let mut first: HashMap<Id, ValueId> = HashMap::new();
    let mut aliases = BTreeMap::new();
    demand.given.retain(|&value, id| {
        let other = match lowering.makers.contains_key(id) {
            true => *first.entry(*id).or_insert(value),
            false => outside.get(id).copied().unwrap_or(value),
        };
        if other != value {
            aliases.insert(value, other);
        }
        other == value
    });
    aliases
}

/// Levels of steps; `None` for constants, which each region has for itself, and for steps that nobody needs.
fn levels(lowering: &Lowering, demand: &Demand, order: &[NodeId]) -> Vec<Option<usize>> {
    let outside: HashMap<Id, ValueId> = lowering.entries.iter().map(|(&value, &id)| (id, value)).collect();
    let mut levels: Vec<Option<usize>> = vec![None; lowering.draft.steps.len()];
    let mut floats: HashMap<ValueId, usize> = HashMap::new();
    let mut at: Vec<Vec<usize>> = vec![Vec::new(); order.len() + 1];
    lowering.places.iter().enumerate().for_each(|(step, &place)| at[place].push(step));
    for (place, &id) in order.iter().enumerate() {
        for &step in at[place].iter().filter(|&&step| demand.steps[step]) {
            let of = |input: &Id| match lowering.makers.get(input) {
                Some(&maker) => levels[maker],
                None => outside.get(input).map(|value| floats.get(value).map_or(1, |level| level + 1)),
            };
            let level = lowering.draft.steps[step].inputs.iter().filter_map(of).max();
            levels[step] = level.or(if lowering.draft.steps[step].op.is_constant() { None } else { Some(1) });
        }
        let Some(node) = lowering.graph.node(id).filter(|_| demand.nodes.contains(&id)) else { continue };
        let of = |value: ValueId| match demand.given.get(&value) {
            Some(id) => lowering.makers.get(id).and_then(|&maker| levels[maker]).unwrap_or(0),
            None => floats.get(&value).copied().unwrap_or(0),
        };
        let level = node.reads().map(of).max().unwrap_or(0);
        node.outputs.iter().flatten().for_each(|&output| {
            floats.insert(output, level);
        });
    }
    levels
}

/// Steps of one level that read from each other, by their first; constants stand alone.
fn components(lowering: &Lowering, levels: &[Option<usize>]) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..levels.len()).collect();
    fn root(parent: &mut [usize], mut of: usize) -> usize {
        while parent[of] != of {
            parent[of] = parent[parent[of]];
            of = parent[of];
        }
        of
    }
    for (step, level) in levels.iter().enumerate().filter(|(_, level)| level.is_some()) {
        for maker in lowering.draft.steps[step].inputs.iter().filter_map(|id| lowering.makers.get(id)) {
            if levels[*maker] == *level {
                let (a, b) = (root(&mut parent, step), root(&mut parent, *maker));
                parent[a.max(b)] = a.min(b);
            }
        }
    }
    let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (step, level) in levels.iter().enumerate() {
        if let Some(level) = level {
            groups.entry((*level, root(&mut parent, step))).or_default().push(step);
        }
    }
    groups.into_values().collect()
}

fn regions(lowering: &Lowering, demand: &Demand, order: &[NodeId]) -> Result<Vec<Region>, LowerError> {
    let levels = levels(lowering, demand, order);
    let groups = components(lowering, &levels);
    let mut names: HashMap<Id, Outside> =
        lowering.entries.iter().map(|(&value, &id)| (id, Outside::Known(value))).collect();
    names.extend(demand.given.iter().map(|(&value, &id)| (id, Outside::Known(value))));
    // What another region reads leaves its own.
    let mut leaving: BTreeSet<Id> = demand.given.values().copied().collect();
    for group in &groups {
        let members: BTreeSet<usize> = group.iter().copied().collect();
        let read = group.iter().flat_map(|&step| &lowering.draft.steps[step].inputs);
        leaving.extend(read.filter(|id| {
            lowering.makers.get(id).is_some_and(|maker| levels[*maker].is_some() && !members.contains(maker))
        }));
    }
    let mut regions = Vec::new();
    for group in &groups {
        let built = build(lowering, &names, &leaving, group);
        regions.push(built.map_err(|source| LowerError::Region { region: regions.len(), source })?);
    }
    Ok(regions)
}

/// A group of steps as a program of its own.
fn build(
    lowering: &Lowering,
    names: &HashMap<Id, Outside>,
    leaving: &BTreeSet<Id>,
    group: &[usize],
) -> Result<Region, super::super::CheckError> {
    let members: BTreeSet<usize> = group.iter().copied().collect();
    let mut draft = Draft::default();
    let mut renamed: HashMap<Id, Id> = HashMap::new();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let name = |id: Id| names.get(&id).copied().unwrap_or(Outside::New(id));
    for &at in group {
        let step = &lowering.draft.steps[at];
        for &id in &step.inputs {
            if renamed.contains_key(&id) {
                continue;
            }
            let own = copy(lowering, id, &mut draft);
            renamed.insert(id, own);
            match lowering.makers.get(&id) {
                Some(maker) if members.contains(maker) => {}
                Some(&maker) if lowering.draft.steps[maker].op.is_constant() => {
                    let op = lowering.draft.steps[maker].op.clone();
                    draft.steps.push(Step { op, inputs: Vec::new(), output: own, node: Arc::clone(&step.node) });
                }
                Some(_) | None => {
                    draft.inputs.push(own);
                    inputs.push(name(id));
                }
            }
        }
        let output = copy(lowering, step.output, &mut draft);
        renamed.insert(step.output, output);
        let read = step.inputs.iter().map(|id| renamed[id]).collect();
        draft.steps.push(Step { op: step.op.clone(), inputs: read, output, node: Arc::clone(&step.node) });
        if leaving.contains(&step.output) {
            draft.outputs.push(output);
            outputs.push(name(step.output));
        }
    }
    let draft = super::fuse::fuse(super::channels::fold(draft, |bytes| lowering.pay(bytes).ok()));
    Ok(Region { program: Program::new(draft)?, inputs, outputs })
}

/// A value of the whole in a region's own program.
fn copy(lowering: &Lowering, id: Id, draft: &mut Draft) -> Id {
    let value = lowering.draft.values[id.index()].clone();
    draft.value(value.shape, value.ty)
}

/// Puts the regions into the graph.
pub(super) fn rewrite(graph: &mut Graph, plan: Plan) -> Vec<Program> {
    for (value, tensor) in plan.folded {
        graph.set_constant(value, tensor);
    }
    graph.replace_all(&plan.aliases);
    let mut made: HashMap<Id, ValueId> = HashMap::new();
    let mut programs = Vec::new();
    for (number, region) in plan.regions.into_iter().enumerate() {
        let mut outside = |graph: &mut Graph, place: &Outside| match *place {
            Outside::Known(value) => Some(plan.aliases.get(&value).copied().unwrap_or(value)),
            Outside::New(id) => Some(*made.entry(id).or_insert_with(|| graph.add_value("int8_region"))),
        };
        let inputs = region.inputs.iter().map(|place| outside(graph, place)).collect();
        let outputs = region.outputs.iter().map(|place| outside(graph, place)).collect();
        graph.add_node(Node {
            name: format!("int8_region_{number}"),
            op: OPERATOR.to_owned(),
            domain: DOMAIN.to_owned(),
            version: 1,
            attributes: BTreeMap::from([("region".to_owned(), Attribute::Int(number as i64))]),
            inputs,
            outputs,
        });
        programs.push(region.program);
    }
    graph.remove_dead();
    programs
}
