//! Which moves of channels are left: `regions_give_what_onnxruntime_gives` says that those that are not are right.

use super::super::op::Op;
use super::super::program::Program;
use super::{SafeTensors, lowered, vectors};
use crate::onnx::shapes::InputShapes;

/// Of a case of each kind of file: its regions.
fn regions(case: &str) -> Vec<(String, Vec<Program>)> {
    let bytes = vectors();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let made = ["qdq-u8s8", "qdq-s8s8", "qop-u8s8"].map(|kind| {
        let name = format!("shuffle-{kind}-{case}");
        let model = tensors.tensor(&format!("{name}/model")).unwrap();
        let (_, _, lowered) = lowered(model.data(), &InputShapes::new()).unwrap();
        (name, lowered.regions)
    });
    made.into()
}

/// The shapes that steps move values to, but for reshapes.
fn moves(regions: &[Program]) -> Vec<&[usize]> {
    let moves = |op: &Op| op.is_movement() && *op != Op::Reshape;
    let steps = regions.iter().flat_map(|region| region.steps().iter().map(move |step| (region, step)));
    steps.filter(|(_, step)| moves(&step.op)).map(|(region, step)| &region.value(step.output).shape[..]).collect()
}

#[test]
fn shuffles_that_products_can_take_in_leave_no_move() {
    for case in ["into-readers", "into-maker"] {
        for (name, regions) in regions(case) {
            assert_eq!(moves(&regions), [&[0; 0]; 0], "{name}: {}", regions[0]);
        }
    }
}

#[test]
fn units_of_shufflenet_move_their_halves_alone() {
    // Units of stride 1 take two halves each; behind those of stride 2 nothing is moved but for that.
    let halves: Vec<&[usize]> = [[&[1, 12, 5, 6][..]; 6].as_slice(), &[&[1, 24, 3, 3][..]; 2]].concat();
    for (name, regions) in regions("units") {
        assert_eq!(moves(&regions), halves, "{name}: {}", regions[0]);
    }
}

#[test]
fn chosen_channels_are_taken_in_one_pass_and_shuffles_of_groups_stay() {
    for (name, regions) in regions("gather") {
        assert_eq!(moves(&regions), [&[1, 8, 6, 6]], "{name}: {}", regions[0]);
    }
    for (name, regions) in regions("groups") {
        assert_eq!(moves(&regions).len(), 1, "{name}: {}", regions[0]);
    }
}
