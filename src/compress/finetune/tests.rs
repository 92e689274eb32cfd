//! Promises of finetuning, on the demo's own story: the deployed int8 digits meet a bumped camera.

use super::*;
use crate::compress::data::{Part, Reading, Shares, Split};
use crate::compress::{Error, Silent};
use crate::engine::Shapes;
use std::path::Path;

struct Story {
    network: Network,
    new: Dataset,
    old: Dataset,
}

/// Turned by 90 degrees and inverted, of 8 by 8 pixels in sixteenths.
fn bump(image: &[u8]) -> impl Iterator<Item = u8> + '_ {
    (0..64).map(|at| 16 - image[(7 - at % 8) * 8 + at / 8])
}

fn story() -> Story {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(root.join("models/digits/model.onnx")).unwrap();
    let network = Network::of_file(&file, &Shapes::new()).unwrap();
    let reading = Reading { scale: Some(1.0 / 16.0), ..Reading::default() };
    let old = Dataset::open(&root.join("tests/vectors/compress/train.npz"), &network.inputs, &reading).unwrap();
    let level = |value: f32| (value * 16.0).round() as u8;
    let image = |number: usize| {
        let image: Vec<u8> = old.sample(number).unwrap().inputs[0].to_f32().unwrap().into_iter().map(level).collect();
        bump(&image).collect::<Vec<_>>()
    };
    let count = 600;
    let images: Vec<u8> = (0..count).flat_map(image).collect();
    let labels: Vec<u8> = (0..count).map(|number| class(&old, number)).collect();
    let view = |values, shape| safetensors::tensor::TensorView::new(safetensors::Dtype::U8, shape, values).unwrap();
    let tensors = [("image", view(&images, vec![count, 8, 8])), ("labels", view(&labels, vec![count]))];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bumped.safetensors");
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let new = Dataset::open(&path, &network.inputs, &reading).unwrap();
    Story { network, new, old }
}

fn class(data: &Dataset, number: usize) -> u8 {
    match data.label(number) {
        Some(crate::compress::data::Label::Class(class)) => u8::try_from(*class).unwrap(),
        other => panic!("{other:?}"),
    }
}

impl Story {
    fn tune(&self, max_forget: Option<f64>, recipe: &Recipe) -> Result<Tuned, Error> {
        let parts = |data: &Dataset| {
            let split = Split::new(data.len(), 1, Shares { train: 60, validation: 20 });
            (split.part(Part::Train), split.part(Part::Validation))
        };
        let ((train, validation), (old_train, old_validation)) = (parts(&self.new), parts(&self.old));
        let new = Samples { data: &self.new, train: &train, validation: &validation };
        let samples = Samples { data: &self.old, train: &old_train, validation: &old_validation };
        let old = max_forget.map(|max_forget| Old { samples, max_forget });
        finetune(&self.network, new, old, Metric::Top1, recipe, &mut Silent)
    }
}

fn recipe(epochs: usize) -> Recipe {
    Recipe { epochs, rate: 3e-3, ..Recipe::default() }
}

#[test]
fn an_int8_model_learns_the_bumped_camera_and_keeps_the_plain_one() {
    let story = story();
    let tuned = story.tune(Some(3.0), &recipe(12)).unwrap();
    let [before, after] = tuned.new;
    assert!(before.value < 30.0 && after.value > 90.0, "{before:?} {after:?}");
    let [before, after] = tuned.old.unwrap();
    assert!(after.drop_from(&before) <= 3.0, "{before:?} {after:?}");
    // Scales, zero points and types are what they were; levels alone are others.
    for (_, a, b) in differing(&story.network, &tuned.network) {
        assert!(a.element().is_integer() && a.element() == b.element() && a.len() > 1, "{a:?}");
    }
    assert!(tuned.changed.weights > 0 && tuned.changed.weights < tuned.changed.of_weights, "{:?}", tuned.changed);
}

#[test]
fn without_a_bound_it_forgets_and_a_tight_bound_takes_less_of_the_way_or_nothing() {
    let story = story();
    let free = story.tune(None, &recipe(6)).unwrap();
    assert_eq!((free.share, free.old), (1.0, None));
    let numbers: Vec<usize> = (0..story.old.len()).step_by(5).collect();
    let score = |network: &Network| {
        let answers = score::answers(network, &story.old, &numbers, &mut Silent).unwrap();
        score::score(Metric::Top1, &answers, &story.old, &numbers, None).unwrap().value
    };
    assert!(score(&story.network) - score(&free.network) > 10.0, "nothing was forgotten: the bound is not tested");
    match story.tune(Some(0.0), &recipe(2)) {
        Ok(tuned) => {
            let [before, after] = tuned.old.unwrap();
            assert!(after.value >= before.value);
        }
        Err(error) => assert!(error.to_string().contains("--max-forget"), "{error}"),
    }
}

#[test]
fn the_head_alone_is_a_small_update() {
    let story = story();
    let tuned = story.tune(None, &Recipe { parts: Parts::Head, ..recipe(4) }).unwrap();
    let [before, after] = tuned.new;
    assert!(after.value > before.value + 10.0, "{before:?} {after:?}");
    assert_eq!(tuned.changed.tensors, 2, "the head's weights and bias alone");
}

#[test]
fn between_two_models_weights_lie_between() {
    let story = story();
    let tuned = story.tune(None, &recipe(2)).unwrap();
    let half = between(&story.network, &tuned.network, 0.5).unwrap();
    for (id, a, b) in differing(&story.network, &tuned.network) {
        let middle = half.graph().constant(id).unwrap().to_i64s().unwrap();
        let ends = a.to_i64s().unwrap().into_iter().zip(b.to_i64s().unwrap());
        assert!(ends.zip(middle).all(|((a, b), middle)| (a.min(b)..=a.max(b)).contains(&middle)));
    }
    assert_eq!(changed(&story.network, &between(&story.network, &tuned.network, 0.0).unwrap()).weights, 0);
}

#[test]
fn norms_that_are_not_there_cannot_follow() {
    let error = story().tune(None, &Recipe { parts: Parts::Norms, ..recipe(1) }).unwrap_err().to_string();
    assert!(error.contains("BatchNormalization"), "{error}");
}
