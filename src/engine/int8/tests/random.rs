//! Programs at random: whatever operators follow one another, the kernels give the reference's bytes.
//! Multipliers are those of the scales, as lowering makes them; everything else is as it comes.

use super::hand::{Lcg, info, node, tensor};
use super::{lowered, on_kernels};
use crate::engine::int8::check::check_step;
use crate::engine::int8::function::{Binary, Unary, exponentials};
use crate::engine::int8::op::*;
use crate::engine::int8::program::{Draft, Program, QuantParams, Step, Type, ValueId};
use crate::engine::int8::reference::run_bytes;
use crate::engine::int8::rows::{LayerNorm, RowFunction};
use crate::onnx::ElementType;
use crate::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto};
use crate::onnx::shapes::InputShapes;
use prost::Message as _;
use std::sync::Arc;

struct Grower {
    random: Lcg,
    draft: Draft,
}

impl Grower {
    fn params(&mut self) -> QuantParams {
        let scale = (1 + self.random.below(400)) as f32 * 1e-3;
        QuantParams { scale, zero_point: self.random.byte(), signed: self.random.below(2) == 0 }
    }

    /// Any value of that kind made so far.
    fn any(&mut self, of: fn(&Type) -> bool) -> Option<ValueId> {
        let fits: Vec<usize> = (0..self.draft.values.len()).filter(|&i| of(&self.draft.values[i].ty)).collect();
        // Late ones more often, so that programs grow deep.
        let place = fits.len().checked_sub(1 + self.random.below(fits.len().clamp(1, 4)))?;
        Some(ValueId(fits[place] as u32))
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.draft.values[id.index()].shape.clone()
    }

    fn ty(&self, id: ValueId) -> Type {
        self.draft.values[id.index()].ty
    }

    fn scale(&self, id: ValueId) -> f32 {
        match self.ty(id) {
            Type::Int8(params) => params.scale,
            Type::Dynamic | Type::F32 | Type::I32 => 1.0,
        }
    }

    /// Adds a step if it is well formed.
    fn push(&mut self, op: Op, inputs: Vec<ValueId>, shape: Vec<usize>, ty: Type) -> Option<ValueId> {
        let output = self.draft.value(shape, ty);
        let step = Step { op, inputs, output, node: "".into() };
        if check_step(&self.draft, &step).is_err() {
            self.draft.values.pop();
            return None;
        }
        self.draft.steps.push(step);
        Some(output)
    }

    fn grow(&mut self) -> Option<ValueId> {
        let int8 = |ty: &Type| matches!(ty, Type::Int8(_));
        let a = self.any(int8)?;
        let (shape, ty, made) = (self.shape(a), self.ty(a), self.params());
        match self.random.below(19) {
            0 | 1 => self.conv(a, &shape),
            2 => {
                let table: Table = std::array::from_fn(|i| (i * 7 % 256) as u8 as i8);
                self.push(Op::Table(Arc::new(table)), vec![a], shape, Type::Int8(made))
            }
            3 | 4 => self.pair(a, &shape, made),
            5 => {
                let b = self.concat_partner(a, &shape)?;
                let mut joined = shape.clone();
                let axis = self.random.below(shape.len());
                joined[axis] += self.shape(b)[axis];
                self.push(Op::Concat { axis }, vec![a, b], joined, ty)
            }
            6 => {
                let starts: Vec<usize> = shape.iter().map(|&dim| self.random.below(dim)).collect();
                let left = shape.iter().zip(&starts).map(|(&dim, &start)| 1 + self.random.below(dim - start)).collect();
                self.push(Op::Slice { steps: vec![1; starts.len()], starts }, vec![a], left, ty)
            }
            7 => {
                let mut permutation: Vec<usize> = (0..shape.len()).collect();
                for i in (1..permutation.len()).rev() {
                    permutation.swap(i, self.random.below(i + 1));
                }
                let turned = permutation.iter().map(|&axis| shape[axis]).collect();
                self.push(Op::Transpose { permutation }, vec![a], turned, ty)
            }
            8 => {
                let to = self.another_shape(&shape);
                self.push(Op::Reshape, vec![a], to, ty)
            }
            9 => {
                let before: Vec<usize> = shape.iter().map(|_| self.random.below(2)).collect();
                let padded = shape.iter().zip(&before).map(|(dim, pad)| dim + pad + self.random.below(2)).collect();
                let value = self.random.byte();
                self.push(Op::Pad { before, value }, vec![a], padded, ty)
            }
            10 => self.pool(a, &shape, ty, made),
            11 => {
                let softmax = Softmax { axis: shape.len() - 1, exponentials: Arc::new(exponentials(0.05)) };
                self.push(Op::Softmax(softmax), vec![a], shape, Type::Int8(made))
            }
            12 => self.linear(a, &shape, made),
            13 => {
                let maps =
                    shape.iter().map(|&dim| (self.random.below(2) == 0).then(|| (0..dim * 2).map(|i| i / 2).collect()));
                let maps: Vec<Option<Arc<[usize]>>> = maps.collect();
                let wide =
                    shape.iter().zip(&maps).map(|(&dim, map)| map.as_ref().map_or(dim, |map| map.len())).collect();
                self.push(Op::Select { maps }, vec![a], wide, ty)
            }
            14 | 15 => {
                let curve = Arc::new(std::array::from_fn(|i| (i as f32 - 128.0) * 0.01));
                self.push(Op::Dequantize(curve), vec![a], shape, Type::F32)
            }
            _ => self.float(made),
        }
    }

    fn conv(&mut self, a: ValueId, shape: &[usize]) -> Option<ValueId> {
        let &[n, c, h, w] = shape else { return None };
        let group = if self.random.below(3) == 0 { c } else { 1 };
        let m = group * (1 + self.random.below(if group == 1 { 20 } else { 2 }));
        let kernel = [1 + self.random.below(3), 1 + self.random.below(3)];
        let pads = std::array::from_fn(|i| self.random.below(kernel[i % 2]));
        let window = Window { kernel, stride: [1, 1 + self.random.below(2)], dilation: [1, 1], pads };
        let [oh, ow] = window.output([h, w])?;
        let shape = vec![m, c / group, kernel[0], kernel[1]];
        let weights =
            Weights { data: self.random.bytes(shape.iter().product()).into(), shape, zero_points: [0].into() };
        let made = self.params();
        let (finish, ty) = match self.random.below(4) {
            0 => (Finish::Float { scales: [0.001].into(), bias: [].into() }, Type::F32),
            _ => {
                let finish = Finish::Requantize {
                    multipliers: [0.002].into(),
                    zero_point: made.zero_point,
                    low: -128,
                    high: 127,
                    table: None,
                };
                (finish, Type::Int8(made))
            }
        };
        let conv = Conv { weights, bias: [].into(), window, group, finish };
        self.push(Op::Conv(conv), vec![a], vec![n, m, oh, ow], ty)
    }

    fn linear(&mut self, a: ValueId, shape: &[usize], made: QuantParams) -> Option<ValueId> {
        let (k, n) = (*shape.last()?, 1 + self.random.below(40));
        let weights = Weights { data: self.random.bytes(k * n).into(), shape: vec![k, n], zero_points: [3].into() };
        let finish = Finish::Requantize {
            multipliers: [0.002].into(),
            zero_point: made.zero_point,
            low: -100,
            high: 100,
            table: None,
        };
        let mut to = shape.to_vec();
        *to.last_mut()? = n;
        self.push(Op::Linear(Linear { weights, bias: [].into(), finish }), vec![a], to, Type::Int8(made))
    }

    /// With another value of that shape, or one that repeats along some axes.
    fn pair(&mut self, a: ValueId, shape: &[usize], made: QuantParams) -> Option<ValueId> {
        let b = if self.random.below(2) == 0 {
            let fits =
                |&i: &usize| self.draft.values[i].shape == shape && matches!(self.draft.values[i].ty, Type::Int8(_));
            ValueId((0..self.draft.values.len()).rfind(fits)? as u32)
        } else {
            let small: Vec<usize> = shape.iter().map(|&dim| if self.random.below(2) == 0 { 1 } else { dim }).collect();
            let skip = self.random.below(small.len());
            let small = if small[..skip].iter().all(|&dim| dim == 1) { small[skip..].to_vec() } else { small };
            let (data, params) = (self.random.bytes(small.iter().product()), self.params());
            self.push(Op::Constant(data.into()), vec![], small, Type::Int8(params))?
        };
        let inputs = if self.random.below(2) == 0 { vec![a, b] } else { vec![b, a] };
        let op = match self.random.below(3) {
            0 => {
                let multiplier = self.scale(inputs[0]) * self.scale(inputs[1]) / made.scale;
                Op::Mul(Mul { multiplier, low: -128, high: 127 })
            }
            1 => Op::Add(Add { ra: 0.5, rb: -0.7, c: 3.25, low: -90, high: 127 }),
            _ => Op::Add(Add { ra: 0.5, rb: 0.7, c: 3.25, low: -128, high: 100 }),
        };
        self.push(op, inputs, shape.to_vec(), Type::Int8(made))
    }

    fn concat_partner(&mut self, a: ValueId, shape: &[usize]) -> Option<ValueId> {
        let ty = self.ty(a);
        let fits = |&i: &usize| self.draft.values[i].shape == shape && self.draft.values[i].ty == ty;
        let places: Vec<usize> = (0..self.draft.values.len()).filter(fits).collect();
        let place = *places.get(self.random.below(places.len().max(1)))?;
        Some(ValueId(place as u32))
    }

    fn pool(&mut self, a: ValueId, shape: &[usize], ty: Type, made: QuantParams) -> Option<ValueId> {
        let &[n, c, h, w] = shape else { return None };
        if self.random.below(3) == 0 {
            let mean = Mean { axes: vec![2, 3], multiplier: self.scale(a) / (made.scale * (h * w) as f32) };
            return self.push(Op::Mean(mean), vec![a], vec![n, c, 1, 1], Type::Int8(made));
        }
        let window = Window { kernel: [2, 2], stride: [1, 2], dilation: [1, 1], pads: [0, 1, 1, 0] };
        let [oh, ow] = window.output([h, w])?;
        if self.random.below(2) == 0 {
            return self.push(Op::MaxPool(window), vec![a], vec![n, c, oh, ow], ty);
        }
        let multipliers = (1..=4).map(|count| self.scale(a) / (made.scale * count as f32)).collect();
        let pool = AveragePool { window, multipliers, count_pads: self.random.below(2) == 0 };
        self.push(Op::AveragePool(pool), vec![a], vec![n, c, oh, ow], Type::Int8(made))
    }

    fn float(&mut self, made: QuantParams) -> Option<ValueId> {
        let a = self.any(|ty| matches!(ty, Type::F32))?;
        let shape = self.shape(a);
        match self.random.below(9) {
            5 => self.float_linear(a, &shape),
            6 => self.float_square(a, &shape),
            7 | 8 => self.rows(a, &shape),
            0 => self.push(Op::Float(Unary::Relu), vec![a], shape, Type::F32),
            1 => self.push(Op::Float(Unary::Gelu), vec![a], shape, Type::F32),
            2 => self.push(Op::FloatBinary(Binary::Mul), vec![a, a], shape, Type::F32),
            3 => {
                let to = self.another_shape(&shape);
                self.push(Op::Reshape, vec![a], to, Type::F32)
            }
            _ => self.push(Op::Quantize, vec![a], shape, Type::Int8(made)),
        }
    }

    fn float_linear(&mut self, a: ValueId, shape: &[usize]) -> Option<ValueId> {
        let (k, n) = (*shape.last()?, 1 + self.random.below(40));
        let zero_points: Arc<[i8]> = if self.random.below(2) == 0 { [0].into() } else { self.random.bytes(n).into() };
        let weights = Weights { data: self.random.bytes(k * n).into(), shape: vec![k, n], zero_points };
        let bias: Vec<f32> = (0..self.random.below(2) * n).map(|i| i as f32 * 0.3 - 2.0).collect();
        let weights = match self.random.below(2) {
            0 => FloatWeights::Bytes { weights, scales: [0.002].into() },
            _ => FloatWeights::Floats { data: self.random.floats(k * n).into(), shape: vec![k, n] },
        };
        let linear = FloatLinear { weights, bias: bias.into() };
        let mut to = shape.to_vec();
        *to.last_mut()? = n;
        self.push(Op::FloatLinear(linear), vec![a], to, Type::F32)
    }

    /// A matrix times itself, turned.
    fn float_square(&mut self, a: ValueId, shape: &[usize]) -> Option<ValueId> {
        let mut permutation: Vec<usize> = (0..shape.len()).collect();
        let [.., m, k] = permutation.as_mut_slice() else { return None };
        std::mem::swap(m, k);
        let turned: Vec<usize> = permutation.iter().map(|&axis| shape[axis]).collect();
        let mut to = shape.to_vec();
        *to.last_mut()? = shape[shape.len() - 2];
        let b = self.push(Op::Transpose { permutation }, vec![a], turned, Type::F32)?;
        self.push(Op::FloatMatMul, vec![a, b], to, Type::F32)
    }

    /// Over the last axis, or the last two.
    fn rows(&mut self, a: ValueId, shape: &[usize]) -> Option<ValueId> {
        let axes = 1 + self.random.below(shape.len().min(2));
        let width: usize = shape[shape.len() - axes..].iter().product();
        let (function, to) = match self.random.below(3) {
            0 => (RowFunction::Softmax, shape.to_vec()),
            1 => (RowFunction::Mean, shape[..shape.len() - axes].iter().copied().chain(vec![1; axes]).collect()),
            _ => {
                let scale = (0..self.random.below(2) * width).map(|i| 1.0 + i as f32 * 0.01).collect();
                let bias = (0..self.random.below(2) * width).map(|i| i as f32 * 0.01).collect();
                (RowFunction::LayerNorm(LayerNorm { epsilon: 1e-5, scale, bias }), shape.to_vec())
            }
        };
        self.push(Op::Rows { function, width }, vec![a], to, Type::F32)
    }

    /// As many values in another shape, of four axes where that can be.
    fn another_shape(&mut self, shape: &[usize]) -> Vec<usize> {
        let mut flat: Vec<usize> = Vec::new();
        let mut rest: usize = shape.iter().product();
        for _ in 0..self.random.below(4) {
            let factor = (1..=4).rev().find(|&factor| rest.is_multiple_of(factor)).unwrap_or(1);
            flat.push(factor);
            rest /= factor;
        }
        flat.insert(self.random.below(flat.len() + 1), rest);
        flat
    }
}

#[test]
fn programs_at_random_run_on_kernels_as_the_reference_has_them() {
    let (mut steps, mut deepest) = (0, 0);
    for seed in 0..400 {
        let mut grower = Grower { random: Lcg(seed), draft: Draft::default() };
        let shape = vec![1 + grower.random.below(2), 1 + grower.random.below(20), 1 + grower.random.below(6), 4];
        let params = grower.params();
        let ty = if grower.random.below(2) == 0 { Type::F32 } else { Type::Int8(params) };
        let input = grower.draft.value(shape.clone(), ty);
        grower.draft.inputs.push(input);
        if ty == Type::F32 {
            grower.push(Op::Quantize, vec![input], shape, Type::Int8(params));
        }
        let wanted = 1 + grower.random.below(24);
        for _ in 0..wanted * 4 {
            let large = grower.draft.values.iter().any(|value| value.count() > 20_000);
            if large || grower.draft.steps.len() >= wanted {
                break;
            }
            grower.grow();
        }
        let made = |step: &&Step| !step.op.is_constant();
        let mut outputs: Vec<ValueId> = grower.draft.steps.iter().filter(made).map(|step| step.output).collect();
        // Some in the middle too, so that values leave and are read on.
        outputs = outputs.iter().rev().step_by(3).copied().collect();
        grower.draft.outputs = outputs;
        let Ok(program) = Program::new(grower.draft) else { continue };
        let count = program.value(program.inputs()[0]).count();
        let input: Vec<u8> = match ty {
            Type::F32 => (0..count).flat_map(|i| ((i * 37 % 101) as f32 * 0.05 - 2.0).to_le_bytes()).collect(),
            Type::Int8(_) | Type::Dynamic | Type::I32 => {
                grower.random.bytes(count).into_iter().map(i8::cast_unsigned).collect()
            }
        };
        let wanted = run_bytes(&program, &[&input]).unwrap();
        on_kernels(&program, &[&input], &wanted).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        (steps, deepest) = (steps + program.steps().len(), deepest.max(program.steps().len()));
    }
    assert!(steps > 1500 && deepest > 15, "{steps} steps in all, {deepest} at most");
}

/// Values of `[1, 4]` in float, each made of earlier ones: by quantizers, products, and operators that stay in float.
fn any_graph(random: &mut Lcg) -> GraphProto {
    let scalar = |name: &str, scale: f32| tensor(name, ElementType::F32, &[], scale.to_le_bytes().to_vec());
    let weights = random.bytes(16).into_iter().map(i8::cast_unsigned).collect();
    let mut graph = GraphProto {
        node: vec![node("DequantizeLinear", &["w", "s", "z"], &["v"])],
        input: vec![info("x", &[1, 4])],
        initializer: vec![
            scalar("s", 0.5),
            tensor("z", ElementType::I8, &[], vec![0]),
            tensor("w", ElementType::I8, &[4, 4], weights),
        ],
        ..Default::default()
    };
    let mut values = vec!["x".to_owned()];
    for number in 0..4 + random.below(24) {
        let made = format!("t{number}");
        let any = |random: &mut Lcg| values[values.len() - 1 - random.below(values.len().min(6))].clone();
        let (a, b) = (any(random), any(random));
        let inner = format!("{made}_inner");
        let steps = match random.below(8) {
            0 | 1 => vec![
                node("QuantizeLinear", &[&a, "s", "z"], &[&inner]),
                node("DequantizeLinear", &[&inner, "s", "z"], &[&made]),
            ],
            2 => vec![node("MatMul", &[&a, "v"], &[&made])],
            // The largest value has no form in regions: it stays in float.
            3 => vec![node("ReduceMax", &[&a], &[&inner]), node("Add", &[&b, &inner], &[&made])],
            4 => vec![node("Softmax", &[&a], &[&made])],
            5 => vec![node("Relu", &[&a], &[&made])],
            6 => vec![node("Mul", &[&a, &b], &[&made])],
            _ => vec![node("Add", &[&a, &b], &[&made])],
        };
        graph.node.extend(steps);
        values.push(made);
    }
    let count = 1 + random.below(3);
    graph.output = values.iter().rev().take(count).map(|name| info(name, &[1, 4])).collect();
    graph
}

#[test]
fn graphs_at_random_are_divided_into_regions_that_never_wait_for_each_other() {
    let (mut several, mut kept) = (0, 0);
    for seed in 0..1_500 {
        let mut random = Lcg(seed);
        let graph = any_graph(&mut random);
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
        let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() };
        let (model, _, lowered) = lowered(&model.encode_to_vec(), &InputShapes::new()).unwrap();
        assert!(model.graph.order().is_ok(), "seed {seed}: {:?}", model.graph.order());
        several += usize::from(lowered.regions.len() > 1);
        kept += usize::from(!lowered.kept.is_empty());
    }
    assert!(several > 300 && kept > 600, "{several} graphs of several regions, {kept} with float nodes");
}
