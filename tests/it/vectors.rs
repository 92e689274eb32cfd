//! The shipped models answer the same on every processor, bit for bit: golden samples are signed on a PC
//! and checked on a board. The expected answers were made under QEMU, by `tests/vectors/models/make`.

use crate::serve::harness::{bump, held_out, load, models};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use selvedge::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SHIPPED: [&str; 2] = ["digits", "digits-adapted"];
/// Names the directory to write new answers to, instead of comparing.
const MAKE: &str = "SELVEDGE_MAKE_VECTORS";
const CLASSES: usize = 10;

/// Held-out digits, seen by the plain and by the bumped camera, and pictures that no camera takes.
fn pictures() -> Vec<[f32; 64]> {
    let plain: Vec<_> = held_out().into_iter().map(|(image, _)| image).collect();
    let strange = [
        [0.0; 64],
        [1.0; 64],
        [-1.0; 64],
        [f32::MAX; 64],
        [f32::MIN; 64],
        std::array::from_fn(|i| i as f32 / 63.0),
        std::array::from_fn(|i| if i % 2 == 0 { 1e6 } else { -1e6 }),
    ];
    plain.iter().copied().chain(plain.iter().map(bump)).chain(strange).collect()
}

/// `[pictures, 10]`, little-endian.
fn answers(dir: &str) -> Vec<u8> {
    let live = load(dir);
    let mut session = live.model().session().unwrap();
    let answer = |image: [f32; 64]| {
        let image = Tensor::from_f32(vec![1, 1, 8, 8], &image).unwrap();
        session.run(&[image]).unwrap()[0].bytes().to_vec()
    };
    pictures().into_iter().flat_map(answer).collect()
}

fn vectors(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models").join(format!("{dir}.safetensors"))
}

fn write(to: &Path, logits: &[u8]) {
    let shape = vec![logits.len() / 4 / CLASSES, CLASSES];
    let logits = TensorView::new(Dtype::F32, shape, logits).unwrap();
    std::fs::write(to, safetensors::serialize([("logits", logits)], None).unwrap()).unwrap();
}

#[test]
fn shipped_models_answer_as_they_do_on_a_board_bit_for_bit() {
    assert!(SHIPPED.iter().all(|dir| models().join(dir).is_dir()));
    for dir in SHIPPED {
        let actual = answers(dir);
        if let Some(to) = std::env::var_os(MAKE) {
            write(&Path::new(&to).join(format!("{dir}.safetensors")), &actual);
            continue;
        }
        let file = std::fs::read(vectors(dir)).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let expected = file.tensor("logits").unwrap();
        assert_eq!(expected.data().len(), actual.len());
        let differ: BTreeMap<usize, (&[u8], &[u8])> = expected
            .data()
            .chunks(4)
            .zip(actual.chunks(4))
            .enumerate()
            .filter(|(_, (expected, actual))| expected != actual)
            .collect();
        assert!(
            differ.is_empty(),
            "{dir}: {} values differ: {:?}",
            differ.len(),
            differ.iter().take(5).collect::<Vec<_>>()
        );
    }
}
