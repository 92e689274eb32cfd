//! Float nets at random: convolutions of every kind with what follows them, whichever steps a kernel takes together.

use super::hand::Lcg;
use super::on_kernels;
use crate::engine::int8::fast::Plan;
use crate::engine::int8::function::{Binary, Unary};
use crate::engine::int8::op::*;
use crate::engine::int8::program::{Draft, Program, Type, ValueId};
use crate::engine::int8::reference::run_bytes;
use crate::kernels::Isa;
use std::sync::Arc;

struct Net {
    random: Lcg,
    draft: Draft,
    images: Vec<ValueId>,
}

impl Net {
    fn new(seed: u64) -> Self {
        let mut random = Lcg(seed);
        let channels = [1, 3, 4, 5, 16, 24, 40][random.below(7)];
        let shape = vec![1 + random.below(2), channels, 1 + random.below(9), 1 + random.below(9)];
        let mut draft = Draft::default();
        let input = draft.value(shape, Type::F32);
        draft.inputs.push(input);
        Self { random, draft, images: vec![input] }
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.draft.values[id.index()].shape.clone()
    }

    fn push(&mut self, op: Op, inputs: Vec<ValueId>, shape: Vec<usize>) -> ValueId {
        self.draft.step(op, inputs, shape, Type::F32)
    }

    fn weights(&mut self, shape: Vec<usize>) -> FloatWeights {
        let count = shape.iter().product();
        match self.random.below(3) {
            0 => {
                let zero_points = if self.random.below(2) == 0 { vec![0] } else { self.random.bytes(shape[0]) };
                let scales = if self.random.below(2) == 0 { vec![0.01] } else { self.random.floats(shape[0]) };
                let weights = Weights { data: self.random.bytes(count).into(), shape, zero_points: zero_points.into() };
                FloatWeights::Bytes { weights, scales: scales.into() }
            }
            _ => FloatWeights::Floats { data: self.random.floats(count).into(), shape },
        }
    }

    fn conv(&mut self, a: ValueId) -> Option<ValueId> {
        let &[n, c, h, w] = self.shape(a).as_slice() else { return None };
        let group = [1, 1, c, if c % 4 == 0 { 4 } else { 1 }][self.random.below(4)];
        let m = if group == c && self.random.below(4) > 0 {
            c
        } else {
            group * (1 + self.random.below((40 / group).max(1)))
        };
        let kernel = [1 + self.random.below(4), 1 + self.random.below(4)];
        let window = match self.random.below(3) {
            0 => Window::UNIT,
            _ => Window {
                kernel,
                stride: [1 + self.random.below(2), 1 + self.random.below(3)],
                dilation: [1 + self.random.below(2), [1, 1, 2][self.random.below(3)]],
                pads: std::array::from_fn(|i| self.random.below(kernel[i % 2] + 1)),
            },
        };
        let [oh, ow] = window.output([h, w])?;
        let weights = self.weights(vec![m, c / group, window.kernel[0], window.kernel[1]]);
        let bias = if self.random.below(3) == 0 { vec![] } else { self.random.floats(m) };
        let conv = FloatConv { weights, bias: bias.into(), window, group };
        Some(self.push(Op::FloatConv(conv), vec![a], vec![n, m, oh, ow]))
    }

    /// With a constant, a value of that shape, or one that repeats.
    fn pair(&mut self, a: ValueId) -> ValueId {
        let shape = self.shape(a);
        let c = shape[1];
        let repeated = [vec![], vec![c, 1, 1], vec![1, c, 1, 1], vec![1, 1, 1, 1], vec![shape[0], c, 1, 1]];
        let alike: Vec<ValueId> = self.images.iter().copied().filter(|&b| self.shape(b) == shape).collect();
        let b = match self.random.below(4) {
            0 | 1 if !alike.is_empty() => alike[self.random.below(alike.len())],
            _ => {
                let shape = repeated[self.random.below(5)].clone();
                let values = self.random.floats(shape.iter().product());
                self.push(Op::FloatConstant(values.into()), vec![], shape)
            }
        };
        let function = [Binary::Add, Binary::Mul, Binary::Sub, Binary::Div][self.random.below(4)];
        let inputs = if self.random.below(2) == 0 { vec![a, b] } else { vec![b, a] };
        self.push(Op::FloatBinary(function), inputs, shape)
    }

    fn pool(&mut self, a: ValueId) -> Option<ValueId> {
        let &[n, c, h, w] = self.shape(a).as_slice() else { return None };
        if self.random.below(3) == 0 {
            let window = Window { kernel: [h, w], ..Window::UNIT };
            return Some(self.push(
                Op::FloatAverage(FloatAverage { window, count_pads: false }),
                vec![a],
                vec![n, c, 1, 1],
            ));
        }
        let window = Window { kernel: [3, 2], stride: [2, 1], dilation: [1, 1], pads: [1, 1, 1, 0] };
        let [oh, ow] = window.output([h, w])?;
        let op = match self.random.below(3) {
            0 => Op::MaxPool(window),
            count => Op::FloatAverage(FloatAverage { window, count_pads: count == 1 }),
        };
        Some(self.push(op, vec![a], vec![n, c, oh, ow]))
    }

    fn movement(&mut self, a: ValueId) -> ValueId {
        let shape = self.shape(a);
        if self.random.below(2) == 0 {
            let map: Arc<[usize]> = (0..shape[2] * 2).map(|i| i / 2).collect();
            let to = vec![shape[0], shape[1], shape[2] * 2, shape[3]];
            return self.push(Op::Select { maps: vec![None, None, Some(map), None] }, vec![a], to);
        }
        let before = vec![0, 0, 1, 2];
        let to = vec![shape[0], shape[1], shape[2] + 1, shape[3] + 3];
        self.push(Op::Pad { before, value: 0 }, vec![a], to)
    }

    /// Rows of what lies innermost as ONNX has it, between images.
    fn rows(&mut self, a: ValueId) -> ValueId {
        let mut shape = self.shape(a);
        let k = shape[3];
        shape[3] = 1 + self.random.below(20);
        let mut weights = self.weights(vec![k, shape[3]]);
        if let FloatWeights::Bytes { weights, scales } = &mut weights {
            (weights.zero_points, *scales) = ([-7].into(), [0.03].into());
        }
        let count = shape[3] * self.random.below(2);
        let bias = self.random.floats(count).into();
        self.push(Op::FloatLinear(FloatLinear { weights, bias }), vec![a], shape)
    }

    fn function(&mut self, a: ValueId) -> ValueId {
        let functions = [Unary::Relu, Unary::HardSwish, Unary::Clip { low: 0.0, high: 6.0 }, Unary::Sigmoid];
        let function = functions[self.random.below(4)];
        let shape = self.shape(a);
        self.push(Op::Float(function), vec![a], shape)
    }

    /// By steps of single values, as convolutions mostly are.
    fn followed(&mut self, mut a: ValueId) -> ValueId {
        for _ in 0..self.random.below(5) {
            a = if self.random.below(2) == 0 { self.function(a) } else { self.pair(a) };
        }
        a
    }

    fn grow(&mut self) {
        // Late ones more often, so that nets grow deep.
        let a = self.images[self.images.len() - 1 - self.random.below(self.images.len().min(3))];
        let shape = self.shape(a);
        let made = match self.random.below(12) {
            0..6 => self.conv(a).map(|made| self.followed(made)),
            6 => Some(self.function(a)),
            7 => Some(self.pair(a)),
            8 => self.pool(a),
            9 => Some(self.movement(a)),
            10 => Some(self.rows(a)),
            _ => {
                let to = vec![shape[0], 2 * shape[1], shape[2], shape[3]];
                Some(self.push(Op::Concat { axis: 1 }, vec![a, a], to))
            }
        };
        self.images.extend(made.filter(|&made| self.draft.values[made.index()].count() < 8_000));
    }
}

#[test]
fn float_nets_at_random_run_on_kernels_as_the_reference_has_them() {
    let (mut convs, mut together) = (0, 0);
    for seed in 0..500 {
        let mut net = Net::new(seed);
        for _ in 0..2 + net.random.below(10) {
            net.grow();
        }
        let count = net.images.len();
        net.draft.outputs.push(net.images[count - 1]);
        // One in the middle too, so that a value leaves and is read on.
        if seed % 3 == 0 && net.images[count / 2] != net.images[count - 1] {
            net.draft.outputs.push(net.images[count / 2]);
        }
        let program = Program::new(net.draft).unwrap();
        let count = program.value(program.inputs()[0]).count();
        let input: Vec<u8> = net.random.floats(count).into_iter().flat_map(f32::to_le_bytes).collect();
        let wanted = run_bytes(&program, &[&input]).unwrap();
        on_kernels(&program, &[&input], &wanted).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let plan = Plan::new(Arc::new(program), Isa::best());
        assert_eq!(plan.slow().collect::<Vec<_>>(), <[&str; 0]>::default(), "seed {seed}: {}", plan.program());
        convs += plan.stages().iter().filter(|stage| stage.kernel().starts_with("float conv")).count();
        together += plan.stages().iter().filter(|stage| stage.steps.len() > 2).count();
    }
    assert!(convs > 200 && together > 200, "{convs} convolutions, {together} with two steps behind them or more");
}

#[test]
fn float_convolutions_that_do_not_hold_together_are_refused() {
    let window = Window { kernel: [3, 2], pads: [1, 0, 1, 1], ..Window::UNIT };
    let conv = |weights: FloatWeights, bias: usize, window: Window, group: usize| {
        let mut draft = Draft::default();
        let input = draft.value(vec![1, 4, 5, 6], Type::F32);
        draft.inputs.push(input);
        let conv = FloatConv { weights, bias: vec![0.0; bias].into(), window, group };
        let output = draft.step(Op::FloatConv(conv), vec![input], vec![1, 6, 5, 6], Type::F32);
        draft.outputs.push(output);
        Program::new(draft).map(|_| ())
    };
    let floats =
        |count: usize, shape: [usize; 4]| FloatWeights::Floats { data: vec![0.5; count].into(), shape: shape.to_vec() };
    let bytes = |count: usize, zeros: usize, scales: Vec<f32>| FloatWeights::Bytes {
        weights: Weights { data: vec![1; count].into(), shape: vec![6, 2, 3, 2], zero_points: vec![0; zeros].into() },
        scales: scales.into(),
    };
    let all = [6, 4, 3, 2];
    assert_eq!(conv(floats(144, all), 6, window, 1), Ok(()));
    assert_eq!(conv(bytes(72, 6, vec![0.1]), 0, window, 2), Ok(()));
    let dilated = Window { dilation: [usize::MAX, 1], ..window };
    let wrong = [
        conv(floats(143, all), 6, window, 1),
        conv(floats(144, all), 5, window, 1),
        conv(floats(144, all), 6, window, 0),
        conv(floats(144, all), 6, window, 2),
        conv(floats(144, all), 6, Window { kernel: [2, 3], ..window }, 1),
        conv(floats(144, all), 6, Window { stride: [0, 1], ..window }, 1),
        conv(floats(144, all), 6, dilated, 1),
        conv(floats(0, [6, 4, usize::MAX, 2]), 6, window, 1),
        conv(bytes(71, 6, vec![0.1]), 0, window, 2),
        conv(bytes(72, 2, vec![0.1]), 0, window, 2),
        conv(bytes(72, 1, vec![0.1; 5]), 0, window, 2),
        conv(bytes(72, 1, vec![f32::NAN]), 0, window, 2),
    ];
    for (number, result) in wrong.iter().enumerate() {
        assert!(result.is_err(), "number {number}");
    }
}
