//! A report for people.

use super::super::model_file::{Source, end_of, times};
use super::super::{Align, Table, bytes, plain};
use crate::engine::{FloatNode, RegionFacts, Report, StageFacts};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const LEFT: Align = Align::Left;
const RIGHT: Align = Align::Right;

pub(super) fn text(source: &Source, report: &Report, listings: &[String], all: bool) -> String {
    let mut parts = vec![head(source, report).to_string(), ends(report).to_string(), operators(report).to_string()];
    if !report.regions.is_empty() {
        parts.push(regions(report).to_string());
        parts.push(kernels(report).to_string());
    }
    if all {
        parts.extend(report.regions.iter().enumerate().map(|(number, region)| steps(number, region)));
    }
    parts.extend(float(report, all));
    parts.extend(slow(report));
    parts.extend(listings.iter().enumerate().map(|(number, listing)| format!("region {number}\n{}", lines(listing))));
    let notes = source.notes.iter().fold(String::new(), |text, note| text + "note: " + &plain(note) + "\n");
    parts.extend((!notes.is_empty()).then_some(notes));
    parts.join("\n")
}

/// A listing may quote the file.
fn lines(text: &str) -> String {
    text.lines().map(|line| plain(line) + "\n").collect()
}

fn head(source: &Source, report: &Report) -> Table {
    let mut table = Table::new([("model", LEFT), (&plain(&source.path), LEFT)]);
    if let Some(release) = &source.release {
        table.row(["release", release]);
    }
    let file = &report.file;
    let opsets: Vec<String> = file.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
    table.row(["file", &format!("{}, IR {}", bytes(file.bytes as u64), file.ir_version)]);
    if !file.producer.is_empty() {
        table.row(["producer", &file.producer]);
    }
    let engine = &report.engine;
    table.row(["operator sets", &opsets.join(", ")]);
    match &report.not_int8 {
        Some(why) => table.row(["int8", &format!("no: {why}")]),
        None => {
            let macs = report.macs() - report.float_macs();
            table.row(["int8", &format!("{} MACs in {}", count(macs), regions_text(report.regions.len()))])
        }
    };
    if report.float_macs() > 0 {
        let regions = report.regions.iter().filter(|region| region.float_macs > 0).count();
        table.row(["float", &format!("{} MACs in {}", count(report.float_macs()), regions_text(regions))]);
    }
    table.row(["kernels", &format!("{}, {}", engine.isa, engine.isa_because)]);
    table.row(["threads", &engine.threads.to_string()]);
    let memory = report.memory;
    let weights = format!("{} packed, {} of tract's nodes", size(memory.int8_weights), size(memory.float_weights));
    table.row(["weights", &weights]);
    table.row(["state", &format!("{} of regions for each run at the same time", size(memory.int8_state))]);
    table
}

fn regions_text(count: usize) -> String {
    if count == 1 { "1 region".into() } else { format!("{count} regions") }
}

fn size(n: usize) -> String {
    bytes(n as u64)
}

fn ends(report: &Report) -> Table {
    let mut table = Table::new([("", LEFT), ("name", LEFT), ("datatype", LEFT), ("shape", LEFT)]);
    let inputs = report.inputs.iter().map(|spec| ("input", spec));
    for (side, spec) in inputs.chain(report.outputs.iter().map(|spec| ("output", spec))) {
        let largest = spec.max_shape.as_deref().map_or_else(String::new, |max| format!(", at most {}", times(max)));
        table.row([side, &spec.name, spec.datatype.name(), &(times(&spec.shape) + &largest)]);
    }
    table
}

fn operators(report: &Report) -> Table {
    let mut table = Table::new([
        ("operator", LEFT),
        ("in the file", RIGHT),
        ("in regions", RIGHT),
        ("in tract", RIGHT),
        ("folded", RIGHT),
    ]);
    let number = |n: usize| if n == 0 { "-".to_owned() } else { n.to_string() };
    let mut total = [0; 3];
    for facts in &report.operators {
        let folded = facts.file.saturating_sub(facts.int8 + facts.float);
        table.row([&facts.operator, &number(facts.file), &number(facts.int8), &number(facts.float), &number(folded)]);
        total = [total[0] + facts.file, total[1] + facts.int8, total[2] + facts.float];
    }
    let folded = total[0].saturating_sub(total[1] + total[2]);
    table.row(["all", &number(total[0]), &number(total[1]), &number(total[2]), &number(folded)]);
    table
}

fn regions(report: &Report) -> Table {
    let mut table = Table::new([
        ("region", LEFT),
        ("steps", RIGHT),
        ("MACs", RIGHT),
        ("weights", RIGHT),
        ("packed", RIGHT),
        ("state", RIGHT),
    ]);
    for (number, region) in report.regions.iter().enumerate() {
        table.row([
            number.to_string(),
            region.stages.len().to_string(),
            count(region.macs),
            size(region.weights),
            size(region.packed),
            size(region.state),
        ]);
    }
    table
}

fn kernels(report: &Report) -> Table {
    let mut kernels: BTreeMap<(&str, &str), (usize, u64)> = BTreeMap::new();
    for stage in report.regions.iter().flat_map(|region| &region.stages) {
        let sums = kernels.entry((stage.kernel, stage.isa)).or_default();
        *sums = (sums.0 + 1, sums.1 + stage.macs);
    }
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by_key(|(_, (steps, macs))| std::cmp::Reverse((*macs, *steps)));
    let mut table = Table::new([("kernel", LEFT), ("for", LEFT), ("steps", RIGHT), ("MACs", RIGHT)]);
    for ((kernel, isa), (steps, macs)) in kernels {
        table.row([kernel, isa, &steps.to_string(), &count(macs)]);
    }
    table
}

fn steps(number: usize, region: &RegionFacts) -> String {
    let mut table = Table::new([
        ("step", RIGHT),
        ("operator", LEFT),
        ("node", LEFT),
        ("output", LEFT),
        ("kernel", LEFT),
        ("MACs", RIGHT),
        ("weights", RIGHT),
        ("activations", RIGHT),
    ]);
    for (at, stage) in region.stages.iter().enumerate() {
        let StageFacts { operator, node, shape, kernel, macs, weights, activations, .. } = stage;
        let weights = if *weights == 0 { "-".into() } else { size(*weights) };
        let node = if node.is_empty() { "-".into() } else { end_of(node) };
        let (at, shape, macs) = (at.to_string(), times(shape), count(*macs));
        table.row([&at, operator, &node, &shape, *kernel, &macs, &weights, &size(*activations)]);
    }
    format!("steps of region {number}\n{table}")
}

/// Nodes that stay float: grouped by reason, or one by one.
fn float(report: &Report, all: bool) -> Option<String> {
    if report.float.is_empty() {
        return None;
    }
    if all {
        let mut table = Table::new([("stays float", LEFT), ("because", LEFT)]);
        for node in &report.float {
            table.row([&node.node, &node.reason]);
        }
        return Some(table.to_string());
    }
    let mut groups: BTreeMap<(&str, &str), Vec<&FloatNode>> = BTreeMap::new();
    for node in &report.float {
        groups.entry((&node.operator, &node.reason)).or_default().push(node);
    }
    let mut table = Table::new([("stays float", LEFT), ("nodes", RIGHT), ("because", LEFT)]);
    for ((operator, reason), nodes) in &groups {
        table.row([*operator, &nodes.len().to_string(), *reason]);
    }
    let mut text = table.to_string();
    let _ = writeln!(text, "--all names them one by one");
    Some(text)
}

fn slow(report: &Report) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for stage in report.regions.iter().flat_map(|region| &region.stages).filter(|stage| stage.slow) {
        *counts.entry(&stage.operator).or_default() += 1;
    }
    let steps: Vec<String> = counts.iter().map(|(operator, count)| format!("{count} {operator}")).collect();
    (!steps.is_empty()).then(|| format!("without a kernel, by the slow reference: {}\n", steps.join(", ")))
}

/// Numbers as people read them: `312.4 M`; `-` for none.
pub fn count(n: u64) -> String {
    match n {
        0 => "-".into(),
        1..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        1_000_000_000.. => format!("{:.2} G", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short() {
        assert_eq!([0, 7, 12_345, 300_500_000, 4_100_000_000].map(count), ["-", "7", "12.3 k", "300.5 M", "4.10 G"]);
    }
}
