//! What channels hold while the engine runs.

use crate::compress::data::Dataset;
use crate::compress::probe::Probe;
use crate::compress::{Error, Network, Progress};
use crate::onnx::graph::ValueId;
use std::collections::BTreeMap;

/// Sums over one channel.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Statistics {
    count: f64,
    sum: f64,
    absolute: f64,
    squares: f64,
    zeros: f64,
}

impl Statistics {
    fn see(&mut self, value: f32) {
        let value = f64::from(value);
        self.count += 1.0;
        self.sum += value;
        self.absolute += value.abs();
        self.squares += value * value;
        self.zeros += f64::from(u8::from(value == 0.0));
    }

    pub fn mean_abs(&self) -> f64 {
        self.absolute / self.count.max(1.0)
    }

    pub fn variance(&self) -> f64 {
        let mean = self.sum / self.count.max(1.0);
        (self.squares / self.count.max(1.0) - mean * mean).max(0.0)
    }

    /// Share of values that are zero.
    pub fn zeros(&self) -> f64 {
        self.zeros / self.count.max(1.0)
    }
}

/// By channel along the axis, over samples.
///
/// # Errors
/// When the engine cannot run the model up to one of the values.
pub fn statistics(
    network: &Network,
    wanted: &[(ValueId, usize)],
    data: &Dataset,
    numbers: &[usize],
    progress: &mut dyn Progress,
) -> Result<BTreeMap<(ValueId, usize), Vec<Statistics>>, Error> {
    let values: Vec<ValueId> = wanted.iter().map(|&(value, _)| value).collect();
    let mut probe = Probe::new(network, &values)?;
    let mut found = BTreeMap::<(ValueId, usize), Vec<Statistics>>::new();
    progress.step("activations", numbers.len());
    for (done, &number) in numbers.iter().enumerate() {
        let seen = probe.run(&data.sample(number)?.inputs)?;
        for &(value, axis) in wanted {
            let Some(seen) = seen.get(&value).filter(|seen| axis < seen.shape.len()) else { continue };
            let length = seen.shape[axis];
            let inner: usize = seen.shape[axis + 1..].iter().product();
            let channels = found.entry((value, axis)).or_insert_with(|| vec![Statistics::default(); length]);
            for (at, &value) in seen.values.iter().enumerate() {
                channels[at / inner.max(1) % length].see(value);
            }
        }
        progress.at(done + 1);
    }
    Ok(found)
}
