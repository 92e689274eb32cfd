//! Promises of pruning: what is removed is what a person would remove, and answers are those of zeroed weights.

use super::follow::{Role, follow};
use super::groups::{Groups, groups};
use super::remove::{removed, settle, zeroed};
use crate::compress::Network;
use crate::compress::data::{Dataset, Reading};
use crate::engine::{Ends, Shapes};
use crate::onnx::graph::ValueId;
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compress").join(name)
}

fn network(file: &str) -> Network {
    let file = std::fs::read(vectors(file)).unwrap();
    let batch = Shapes::from([("x".to_owned(), vec![1, 2, 8, 8])]);
    let ends = Ends::of(&file, &Shapes::new()).or_else(|_| Ends::of(&file, &batch)).unwrap();
    let mut network = Network::with_norms(&file, ends.inputs, ends.outputs).unwrap();
    settle(&mut network);
    network
}

fn answer(network: &Network, x: &[f32]) -> Vec<f32> {
    let input = Tensor::from_f32(network.inputs[0].shape.clone(), x).unwrap();
    network.session().unwrap().run(&[input]).unwrap()[0].to_f32().unwrap()
}

fn array(name: &str) -> Vec<f32> {
    let mut archive = npyz::npz::NpzArchive::open(vectors("prune/answers.npz")).unwrap();
    archive.by_name(name).unwrap().unwrap().into_vec().unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let size = b.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    a.iter().zip(b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / size
}

/// What makes, shifts and scales a unit's channels, by tensor.
fn zeroed_by(network: &Network, groups: &Groups, unit: usize) -> BTreeMap<String, (usize, Vec<usize>)> {
    let slices = groups.units[unit]
        .slices
        .iter()
        .filter(|slice| [Role::Makes, Role::Shifts, Role::Scales].contains(&slice.role));
    let named =
        slices.map(|slice| (network.graph().value(slice.value).name.clone(), (slice.axis, slice.positions.clone())));
    named.collect()
}

fn by_name(network: &Network, name: &str) -> Option<ValueId> {
    network
        .graph()
        .values()
        .find(|(id, value)| value.name == name && network.graph().constant(*id).is_some())
        .map(|(id, _)| id)
}

#[test]
fn removal_finds_what_a_person_would_and_answers_as_onnxruntime_with_zeros() {
    let cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(vectors("prune/cases.json")).unwrap()).unwrap();
    for (name, cases) in cases.as_object().unwrap() {
        let network = network(&format!("prune/{name}.onnx"));
        let x = array(&format!("{name}.x"));
        assert!(distance(&answer(&network, &x), &array(&format!("{name}.0"))) < 1e-6, "{name}");
        let mut followed = follow(network.graph(), &network.facts());
        let groups = groups(network.graph(), &mut followed, |_| false);
        for (at, case) in cases.as_array().unwrap().iter().enumerate() {
            let place = format!("{name}, case {at}");
            let expected: BTreeMap<String, (usize, Vec<usize>)> =
                serde_json::from_value(case["zeroed"].clone()).unwrap();
            // Units that touch what is expected; together they are exactly that.
            let touches = |unit: &usize| {
                zeroed_by(&network, &groups, *unit).iter().any(|(tensor, (axis, positions))| {
                    expected
                        .get(tensor)
                        .is_some_and(|(own, all)| own == axis && positions.iter().any(|at| all.contains(at)))
                })
            };
            let units: Vec<usize> = (0..groups.units.len()).filter(touches).collect();
            let mut found = BTreeMap::<String, (usize, Vec<usize>)>::new();
            for &unit in &units {
                for (tensor, (axis, positions)) in zeroed_by(&network, &groups, unit) {
                    found.entry(tensor).or_insert((axis, Vec::new())).1.extend(positions);
                }
            }
            found.values_mut().for_each(|(_, positions)| positions.sort_unstable());
            assert_eq!(found, expected, "{place}: {:?}", groups.stays);
            let gone: BTreeSet<_> = units.iter().map(|&unit| groups.units[unit].id).collect();
            let smaller = removed(&network, &followed, &gone).unwrap();
            let reference = array(&format!("{name}.{}", at + 1));
            let far = distance(&answer(&smaller, &x), &reference);
            assert!(far < 1e-6, "{place}: {far}");
            let masked = zeroed(&network, units.iter().map(|&unit| &groups.units[unit])).unwrap();
            let far = distance(&answer(&masked, &x), &reference);
            assert!(far < 1e-6, "{place}, zeroed: {far}");
            for (tensor, shape) in case["shapes"].as_object().unwrap().iter().filter(|(_, shape)| !shape.is_null()) {
                let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
                let value = by_name(&smaller, tensor).unwrap_or_else(|| panic!("{place}: {tensor}"));
                assert_eq!(smaller.graph().constant(value).unwrap().shape(), shape, "{place}: {tensor}");
            }
        }
    }
}
