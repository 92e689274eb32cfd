//! Promises of the maker: whatever the two files are, the delta makes the new one; and what stayed costs nothing.

use super::*;
use crate::onnx::proto::{ModelProto, TensorProto};
use prost::Message as _;

fn model(name: &str) -> Vec<u8> {
    let path = format!("{}/models/{name}/model.onnx", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

/// Decoded, changed, encoded: by prost, which knows nothing of deltas.
fn changed(file: &[u8], change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = ModelProto::decode(file).unwrap();
    change(&mut model);
    model.encode_to_vec()
}

fn weights(model: &mut ModelProto) -> &mut Vec<TensorProto> {
    &mut model.graph.as_mut().unwrap().initializer
}

fn size(old: &[u8], new: &[u8]) -> usize {
    make(old, new).expect("it was applied and makes the new file").0.len()
}

#[test]
fn the_same_file_costs_next_to_nothing() {
    let file = model("digits");
    assert!(size(&file, &file) < 16);
}

#[test]
fn renamed_and_reordered_tensors_are_found() {
    let old = model("digits");
    let new = changed(&old, |model| {
        let graph = model.graph.as_mut().unwrap();
        graph.initializer.reverse();
        for tensor in &mut graph.initializer {
            let name = tensor.name.clone();
            let new = format!("anew/{}", name);
            graph.node.iter_mut().flat_map(|n| &mut n.input).filter(|i| **i == name).for_each(|i| *i = new.clone());
            tensor.name = new;
        }
    });
    let size = size(&old, &new);
    assert!(size < 900, "{size} of {}", new.len());
}

#[test]
fn a_head_that_moved_costs_its_own_size_at_most() {
    let old = model("digits");
    let new = changed(&old, |model| {
        let largest = weights(model).iter_mut().map(|t| &mut t.raw_data).max_by_key(|raw| raw.len()).unwrap();
        let mut moved = largest.to_vec();
        moved.iter_mut().step_by(3).for_each(|level| *level = level.wrapping_add(1));
        *largest = moved;
    });
    let size = size(&old, &new);
    assert!(size < 9216 / 5, "{size}");
}

#[test]
fn files_of_any_kind_come_out_whole() {
    let (old, new) = (model("digits"), model("digits-adapted"));
    let cut = &new[..new.len() / 2];
    let noise: Vec<u8> = (0_u64..4000).flat_map(|i| *Digest::of(&i.to_le_bytes()).as_bytes()).collect();
    let mut moved = noise.clone();
    moved.chunks_exact_mut(60).for_each(|n| n[0] = n[0].wrapping_add(1));
    moved.drain(1000..1003);
    for (old, new) in [
        (&old[..], &new[..]),
        (&old, cut),
        (cut, &old),
        (&[], &old),
        (&old, &[]),
        (&noise, &moved),
        (&[], &[]),
        (&noise, &old),
    ] {
        assert!(size(old, new) <= new.len() + new.len() / 50 + 64, "{} to {}", old.len(), new.len());
    }
    assert!(size(&noise, &moved) < noise.len() / 50);
}

#[test]
fn damaged_models_are_files_like_others() {
    let old = model("digits");
    for at in (0..4200).step_by(61) {
        let mut new = old.clone();
        new[at] ^= 0xff;
        assert!(size(&old, &new) < 400, "byte {at}");
        assert!(make(&new, &old).is_some(), "byte {at}");
    }
}
