//! Operators with gradients over contiguous floats, as candle's own ops: those that candle lacks, gets wrong or does slowly.
//!
//! Invariant: each gradient equals finite differences (`tests`); the same inputs give the same bits, whatever the number of
//! threads.
//! Not here: which ONNX operator becomes which (`interpret`).
//!
//! Rejected: candle's convolutions (depthwise 30 times slower than a direct loop; some strides fail backwards), its pools
//! (gradients too small, or wrong at odd sizes), its softmax and norms (no gradient, without a word).

pub mod conv;
pub mod depthwise;
pub mod extreme;
pub mod fake;
pub mod norm;
pub mod pool;
pub mod resample;
pub mod unary;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Tensor};

/// Row-major floats and their shape.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub values: &'a [f32],
    pub shape: &'a [usize],
}

/// An operator of one to three tensors.
pub trait Kernel: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Values and shape of what comes out.
    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>);

    /// For each input that is wanted the gradient of the loss, of the input's shape; `output` is what `forward` gave and
    /// `grad` the loss's gradient by it.
    fn backward(&self, inputs: &[View<'_>], output: View<'_>, grad: View<'_>, wanted: &[bool])
    -> Vec<Option<Vec<f32>>>;
}

struct Op<K>(K);

/// Applies an operator; inputs are brought into rows first.
///
/// # Errors
/// When an input is no FLOAT, or there are none or more than three.
pub fn apply<K: Kernel>(kernel: K, inputs: &[&Tensor]) -> Result<Tensor> {
    let rows = |tensor: &&Tensor| tensor.to_dtype(DType::F32)?.contiguous();
    let inputs: Vec<Tensor> = inputs.iter().map(rows).collect::<Result<_>>()?;
    match &inputs[..] {
        [a] => a.apply_op1(Op(kernel)),
        [a, b] => a.apply_op2(b, Op(kernel)),
        [a, b, c] => a.apply_op3(b, c, Op(kernel)),
        _ => candle_core::bail!("{}: one to three inputs", kernel.name()),
    }
}

fn rows<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("rows are expected"),
    }
}

/// A tensor's values, row-major.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

fn forward<K: Kernel>(kernel: &K, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
    let mut views = Vec::with_capacity(inputs.len());
    for (storage, layout) in inputs {
        views.push(View { values: rows(storage, layout)?, shape: layout.dims() });
    }
    let (values, shape) = kernel.forward(&views);
    Ok((CpuStorage::F32(values), Shape::from(shape)))
}

fn backward<K: Kernel>(kernel: &K, args: &[&Tensor], res: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
    let wanted: Vec<bool> = args.iter().map(|arg| arg.track_op()).collect();
    let all: Vec<Tensor> = args.iter().copied().chain([res, grad]).map(Tensor::contiguous).collect::<Result<_>>()?;
    let guards: Vec<_> = all.iter().map(Tensor::storage_and_layout).collect();
    let mut views = Vec::with_capacity(all.len());
    for (storage, layout) in &guards {
        let candle_core::Storage::Cpu(storage) = &**storage else { candle_core::bail!("a CPU's tensor is expected") };
        views.push(View { values: rows(storage, layout)?, shape: layout.dims() });
    }
    let (inputs, ends) = views.split_at(args.len());
    let grads = kernel.backward(inputs, ends[0], ends[1], &wanted);
    let tensor = |(grad, arg): (Option<Vec<f32>>, &&Tensor)| {
        grad.map(|grad| Tensor::from_vec(grad, arg.dims(), &Device::Cpu)).transpose()
    };
    grads.into_iter().zip(args).map(tensor).collect()
}

impl<K: Kernel> CustomOp1 for Op<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, &[(storage, layout)])
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(backward(&self.0, &[arg], res, grad)?.remove(0))
    }
}

impl<K: Kernel> CustomOp2 for Op<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, &[(s1, l1), (s2, l2)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut grads = backward(&self.0, &[a, b], res, grad)?.into_iter();
        Ok((grads.next().flatten(), grads.next().flatten()))
    }
}

impl<K: Kernel> CustomOp3 for Op<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, &[(s1, l1), (s2, l2), (s3, l3)])
    }

    #[allow(clippy::type_complexity)] // candle's own.
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut grads = backward(&self.0, &[a, b, c], res, grad)?.into_iter();
        Ok((grads.next().flatten(), grads.next().flatten(), grads.next().flatten()))
    }
}
