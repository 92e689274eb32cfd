//! Soft targets, and relations between samples.
//!
//! Shapes: answers and embeddings are `[samples, ...]`; what is compared is each sample's whole row.
//! Not here: hints, which have weights of their own.

use crate::compress::distil::Soft;
use crate::compress::train::loss::{log_softmax, rows};
use crate::compress::train::{Kernel, Unary, View, apply};
use candle_core::{D, DType, Device, Result, Tensor};

/// How far each sample's answer is from the teacher's, `[samples]`: with the factor T² that keeps the size of gradients
/// whatever the temperature (arXiv:1503.02531, section 2). Of the teacher's answer no gradient is taken.
///
/// # Errors
/// When shapes differ.
pub fn soft_targets(student: &Tensor, teacher: &Tensor, temperature: f32, soft: Soft) -> Result<Tensor> {
    let (student, teacher) = (rows(student)?, rows(&teacher.detach())?);
    if soft == Soft::MeanSquared {
        return (student - teacher)?.sqr()?.mean(1);
    }
    let softer = |logits: Tensor| log_softmax(&logits.affine(1.0 / f64::from(temperature), 0.0)?);
    let (own, target) = (softer(student)?, softer(teacher)?);
    let share = target.exp()?;
    let mut far = (&share * own)?.sum(1)?.neg()?;
    if soft == Soft::Kl {
        far = (far + (share * target)?.sum(1)?)?;
    }
    far.affine(f64::from(temperature).powi(2), 0.0)
}

/// The same of outputs that are each a probability for itself, by a Sigmoid: the mean over them.
///
/// # Errors
/// When shapes differ.
pub fn soft_binary(student: &Tensor, teacher: &Tensor, temperature: f32, soft: Soft) -> Result<Tensor> {
    let (student, teacher) = (rows(student)?, rows(&teacher.detach())?);
    let softer = |logits: Tensor| logits.affine(1.0 / f64::from(temperature), 0.0);
    let (own, target) = (softer(student)?, softer(teacher)?);
    let share = Unary::Sigmoid.apply(&target)?;
    let cross = |logits: &Tensor| Unary::Softplus.apply(logits)? - (logits * &share)?;
    let mut far = cross(&own)?;
    if soft == Soft::Kl {
        far = (far - cross(&target)?)?;
    }
    far.mean(1)?.affine(f64::from(temperature).powi(2), 0.0)
}

/// Samples of a batch that relations look at: angles are of three each.
pub const RELATED: usize = 64;

/// Distances between two samples each, by their mean, against the teacher's; 0 for less than two samples.
///
/// # Errors
/// What candle says.
pub fn distances(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let (own, target) = (Related::of(student)?, Related::of(&teacher.detach())?);
    if own.count < 2 {
        return Tensor::new(0.0_f32, &Device::Cpu);
    }
    let pairs = (own.count * (own.count - 1)) as f64;
    let relative = |related: &Related| {
        let distances = (&related.distances * &related.others)?;
        let mean = distances.sum_all()?.affine(1.0 / pairs, f64::from(f32::MIN_POSITIVE))?;
        distances.broadcast_div(&mean)
    };
    apply(Huber, &[&(relative(&own)? - relative(&target)?)?])?.sum_all()? * (1.0 / pairs)
}

/// Cosines of the angle at one sample between two others, against the teacher's; 0 for less than three samples.
///
/// # Errors
/// What candle says.
pub fn angles(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let (own, target) = (Related::of(student)?, Related::of(&teacher.detach())?);
    let count = own.count;
    if count < 3 {
        return Tensor::new(0.0_f32, &Device::Cpu);
    }
    let triples = (count * (count - 1) * (count - 2)) as f64;
    apply(Huber, &[&(own.cosines()? - target.cosines()?)?])?.sum_all()? * (1.0 / triples)
}

/// Samples beside each other.
struct Related {
    count: usize,
    /// Inner products about their common mean.
    products: Tensor,
    /// Squares of lengths.
    squares: Tensor,
    /// Of two samples; 1 from a sample to itself.
    distances: Tensor,
    /// 0 from a sample to itself, else 1.
    others: Tensor,
}

impl Related {
    fn of(embeddings: &Tensor) -> Result<Self> {
        let x = rows(embeddings)?;
        let count = x.dims2()?.0.min(RELATED);
        let x = x.narrow(0, 0, count)?;
        // Nothing changes by a common shift, but that differences of large numbers are no longer taken.
        let x = x.broadcast_sub(&x.mean_keepdim(0)?.detach())?;
        let products = x.matmul(&x.t()?.contiguous()?)?;
        let squares = x.sqr()?.sum(1)?;
        let own = Tensor::eye(count, DType::F32, &Device::Cpu)?;
        let others = own.affine(-1.0, 1.0)?;
        let apart = squares.unsqueeze(0)?.broadcast_add(&squares.unsqueeze(1)?)?;
        let apart = ((apart - products.affine(2.0, 0.0)?)?.relu()? * &others)?;
        // The root is steep without bound near 0: two samples that are all but the same would count for all others.
        let size = apart.mean_all()?.detach().affine(1e-4, 1e-12)?;
        let distances = (apart.broadcast_add(&size)?.sqrt()? * &others)?;
        Ok(Self { count, products, squares, distances: (distances + own)?, others })
    }

    /// At `[j, i, k]` that of i and k seen from j; 0 where two of them are the same.
    fn cosines(&self) -> Result<Tensor> {
        let products = &self.products;
        let at = self.squares.unsqueeze(1)?.unsqueeze(2)?;
        let inner = products.unsqueeze(0)?.broadcast_add(&at)?;
        let inner = inner.broadcast_sub(&products.unsqueeze(2)?)?.broadcast_sub(&products.unsqueeze(1)?)?;
        let lengths = self.distances.unsqueeze(2)?.broadcast_mul(&self.distances.unsqueeze(1)?)?;
        let apart = self.others.unsqueeze(2)?.broadcast_mul(&self.others.unsqueeze(1)?)?;
        let apart = apart.broadcast_mul(&self.others.unsqueeze(0)?)?;
        (inner / lengths)? * apart
    }
}

/// Half the square up to 1, the size less a half beyond.
struct Huber;

impl Kernel for Huber {
    fn name(&self) -> &'static str {
        "huber"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let one = |x: &f32| if x.abs() < 1.0 { 0.5 * x * x } else { x.abs() - 0.5 };
        (inputs[0].values.iter().map(one).collect(), inputs[0].shape.to_vec())
    }

    fn backward(&self, inputs: &[View<'_>], _: View<'_>, grad: View<'_>, _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let each = inputs[0].values.iter().zip(grad.values);
        vec![Some(each.map(|(x, grad)| grad * x.clamp(-1.0, 1.0)).collect())]
    }
}

/// The last dimension's mean over `to` windows that cover it evenly (as "adaptive" pooling has them).
///
/// # Errors
/// What candle says.
pub(super) fn pooled(x: &Tensor, to: usize) -> Result<Tensor> {
    let from = x.dim(D::Minus1)?;
    if from == to {
        return Ok(x.clone());
    }
    let mut windows = vec![0.0_f32; from * to];
    for at in 0..to {
        let (start, end) = (at * from / to, ((at + 1) * from).div_ceil(to));
        (start..end).for_each(|row| windows[row * to + at] = 1.0 / (end - start) as f32);
    }
    let windows = Tensor::from_vec(windows, (from, to), &Device::Cpu)?;
    let mut shape = x.dims().to_vec();
    let flat = x.contiguous()?.reshape((x.elem_count() / from, from))?;
    *shape.last_mut().unwrap_or(&mut 0) = to;
    flat.matmul(&windows)?.reshape(shape)
}
