//! Hints: a tensor of the student, through an adapter that is learnt along, against one of the teacher's.
//!
//! The adapter is a matrix over channels at every position: for images a convolution of 1x1. Where the two differ in size,
//! the larger is brought to the smaller by means.

use super::Hint;
use super::loss::pooled;
use super::names::{find, has_features_last};
use crate::compress::data::mix;
use crate::compress::{Error, Network};
use crate::onnx::graph::ValueId;
use candle_core::{Device, Result, Tensor, Var, bail};

/// A hint with its adapter.
#[derive(Debug)]
pub struct Adapter {
    pub teacher: ValueId,
    pub student: ValueId,
    pub weight: f32,
    /// Of the teacher's and the student's: channels are the last dimension, not the second.
    last: [bool; 2],
    /// `[channels of the student, of the teacher]`, once both are known.
    matrix: Option<Var>,
    bias: Option<Var>,
}

impl Adapter {
    /// # Errors
    /// When there is no such tensor, with the nearest that there is.
    pub fn new(hint: &Hint, teacher: &Network, student: &Network) -> std::result::Result<Self, Error> {
        let (theirs, own) = (find(teacher, &hint.teacher, "teacher")?, find(student, &hint.student, "student")?);
        let last = [has_features_last(teacher, theirs), has_features_last(student, own)];
        Ok(Self { teacher: theirs, student: own, weight: hint.weight, last, matrix: None, bias: None })
    }

    /// Makes the adapter for tensors of these forms: the identity where channels are as many, else random by the seed.
    ///
    /// # Errors
    /// When they cannot be compared.
    pub fn fit(&mut self, teacher: &Tensor, student: &Tensor, seed: u64) -> Result<()> {
        let (theirs, own) = self.alike(teacher, student)?;
        let (inputs, outputs) = (own.dims2()?.1, theirs.dims2()?.1);
        let bound = (6.0 / (inputs + outputs) as f32).sqrt();
        let random = |at: usize| (mix(seed ^ mix(at as u64)) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let element = |at: usize| match inputs == outputs {
            true => f32::from(u8::from(at / outputs == at % outputs)),
            false => bound * random(at),
        };
        let matrix: Vec<f32> = (0..inputs * outputs).map(element).collect();
        self.matrix = Some(Var::from_tensor(&Tensor::from_vec(matrix, (inputs, outputs), &Device::Cpu)?)?);
        self.bias = Some(Var::from_tensor(&Tensor::zeros(outputs, candle_core::DType::F32, &Device::Cpu)?)?);
        Ok(())
    }

    pub fn variables(&self) -> impl Iterator<Item = &Var> {
        self.matrix.iter().chain(&self.bias)
    }

    /// Mean squared difference over the mean square of the teacher's: 1 for a student that says nothing.
    ///
    /// # Errors
    /// When shapes are others than those that it was made for.
    pub fn loss(&self, teacher: &Tensor, student: &Tensor) -> Result<Tensor> {
        let (Some(matrix), Some(bias)) = (&self.matrix, &self.bias) else { bail!("an adapter before its shapes") };
        let (theirs, own) = self.alike(&teacher.detach(), student)?;
        let adapted = own.matmul(matrix)?.broadcast_add(bias)?;
        let size = theirs.sqr()?.mean_all()?.affine(1.0, 1e-12)?;
        (adapted - theirs)?.sqr()?.mean_all()? / size
    }

    /// Both as `[samples · positions, channels]`, at as many positions.
    fn alike(&self, teacher: &Tensor, student: &Tensor) -> Result<(Tensor, Tensor)> {
        let (theirs, own) = (channels_second(teacher, self.last[0])?, channels_second(student, self.last[1])?);
        let (theirs, own) = match (theirs.rank(), own.rank()) {
            (a, b) if a == b => (theirs, own),
            (2, _) => (theirs, flat_mean(&own)?),
            (_, 2) => (flat_mean(&theirs)?, own),
            _ => bail!("a tensor of shape {:?} is not compared with one of {:?}", teacher.dims(), student.dims()),
        };
        let (mut theirs, mut own) = (theirs, own);
        // Each dimension comes to the end once.
        for axis in 2..theirs.rank() {
            let to = theirs.dim(axis)?.min(own.dim(axis)?);
            let along = |x: &Tensor| pooled(&x.transpose(axis, x.rank() - 1)?, to)?.transpose(axis, x.rank() - 1);
            (theirs, own) = (along(&theirs)?, along(&own)?);
        }
        Ok((channels_last(&theirs)?, channels_last(&own)?))
    }
}

fn channels_second(x: &Tensor, are_last: bool) -> Result<Tensor> {
    if x.rank() < 2 {
        bail!("a tensor of shape {:?} has no channels", x.dims());
    }
    if are_last && x.rank() > 2 { x.transpose(1, x.rank() - 1) } else { Ok(x.clone()) }
}

/// `[samples, channels]`.
fn flat_mean(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.mean(2)
}

fn channels_last(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 2 {
        return x.contiguous();
    }
    let x = x.contiguous()?.flatten_from(2)?;
    let (samples, channels, positions) = x.dims3()?;
    x.transpose(1, 2)?.contiguous()?.reshape((samples * positions, channels))
}
