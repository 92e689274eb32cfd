//! Promises of training that was killed: another process goes on from what was kept, and ends with the same bytes.

use super::*;
use crate::compress::quantize::{self, Exceptions, Scales, prepare, qat};
use crate::compress::{Error, Progress};
use std::collections::BTreeMap;

/// Keeps every epoch, and kills the process after some.
#[derive(Default)]
struct Keeper {
    kept: BTreeMap<u64, Vec<u8>>,
    left: Option<usize>,
    epochs: usize,
}

impl Progress for Keeper {
    fn step(&mut self, what: &str, _: usize) {
        self.epochs += usize::from(what.starts_with("epoch"));
    }
    fn at(&mut self, _: usize) {}
    fn keeps(&mut self, _: bool) -> bool {
        true
    }
    fn keep(&mut self, key: u64, state: &[u8]) -> Result<(), Error> {
        self.kept.insert(key, state.to_vec());
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left == 0 {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }
    fn kept(&mut self, key: u64) -> Option<Vec<u8>> {
        self.kept.get(&key).cloned()
    }
}

/// Killed after every second epoch until it is done; how many epochs were done in all.
fn in_parts<T>(mut work: impl FnMut(&mut dyn Progress) -> Result<T, Error>) -> (T, usize) {
    let mut keeper = Keeper::default();
    for _ in 0..20 {
        keeper.left = Some(2);
        match work(&mut keeper) {
            Ok(done) => return (done, keeper.epochs),
            Err(Error::Stopped) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never ends")
}

#[test]
fn a_training_that_is_killed_again_and_again_ends_with_the_same_bytes() {
    let (network, data, split) = digits();
    let start = untrained(&network);
    let samples = Samples { data: &data, train: &split.train, validation: &split.validation };
    for method in [Method::AdamW, Method::Sgd { momentum: 0.9 }] {
        let augment = "shift:1,noise:0.1".parse().unwrap();
        let recipe = Recipe { epochs: 5, rate: 0.01, method, augment, ..Recipe::default() };
        let whole = fit(&start, samples, &recipe, &mut Plain, &mut Silent).unwrap();
        let (parts, epochs) = in_parts(|keeper| fit(&start, samples, &recipe, &mut Plain, keeper));
        assert_eq!(epochs, 5, "none is done twice");
        assert_eq!(parts.network.encode().unwrap(), whole.network.encode().unwrap());
        assert_eq!((parts.epochs, parts.after.to_bits()), (whole.epochs, whole.after.to_bits()));
    }
}

#[test]
fn what_is_kept_of_another_training_is_not_taken() {
    let (network, data, split) = digits();
    let samples = Samples { data: &data, train: &split.train, validation: &split.validation };
    let mut keeper = Keeper::default();
    let recipe = Recipe { epochs: 1, ..Recipe::default() };
    for (recipe, network) in [
        (recipe.clone(), network.clone()),
        (Recipe { rate: 0.002, ..recipe.clone() }, network.clone()),
        (recipe.clone(), untrained(&network)),
    ] {
        fit(&network, samples, &recipe, &mut Plain, &mut keeper).unwrap();
    }
    assert_eq!((keeper.kept.len(), keeper.epochs), (3, 3));
    fit(&network, samples, &recipe, &mut Plain, &mut keeper).unwrap();
    assert_eq!(keeper.epochs, 3, "it was done already");
}

#[test]
fn scales_of_quantization_go_on_too() {
    let (network, data, split) = digits();
    let samples = Samples { data: &data, train: &split.train, validation: &split.validation };
    for (scales, least_squares) in [(Scales::Recomputed, true), (Scales::Learned, false)] {
        let mut recipe = quantize::Recipe::default();
        (recipe.weights.bits, recipe.weights.least_squares) = (2, least_squares);
        let training = quantize::Training { scales, training: Recipe { epochs: 5, rate: 2e-3, ..Recipe::default() } };
        let work = |progress: &mut dyn Progress| {
            let mut prepared = prepare(&network, Some((&data, &split.train)), &recipe, &mut Silent)?;
            let trained = qat(&mut prepared, samples, &training, progress)?;
            let made = prepared.quantized(&Exceptions::default(), &mut Silent)?;
            Ok((made.network.encode()?, trained.epochs))
        };
        let (whole, (parts, _)) = (work(&mut Silent).unwrap(), in_parts(work));
        assert_eq!(whole.1, parts.1, "{scales:?}");
        assert!(whole.0 == parts.0, "{scales:?}: other bytes");
    }
}
