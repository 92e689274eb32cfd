//! One stage at a time.

use super::super::approximate;
use super::super::program::{Type, Value, ValueId};
use super::super::reference::{self, Data};
use super::kernel::Kernel;
use super::layout::{self, Layout};
use super::slots::Home;
use super::stage::Stage;
use super::{Plan, Scratch, State};
use crate::kernels::{self, AveragePool, Convert, Image, Quantization, SLACK, TileMut, words};
use std::borrow::Cow;

/// Products of int8 values in a tile that is worth handing to another thread: some µs. Tests part their small programs.
const TILE: usize = if cfg!(test) { 100 } else { 1 << 17 };
/// What reading and writing one value costs, in products.
const VALUE: usize = 16;
/// Tiles for each thread, so that a thread that comes late leaves its part to others.
const TILES: usize = 5;

/// A stage at work, with everything but its output.
pub(super) struct Scope<'a> {
    pub plan: &'a Plan,
    pub state: &'a State,
    pub stage: &'a Stage,
    /// The run's.
    pub inputs: &'a [&'a [u8]],
}

impl Plan {
    pub(super) fn stage(&self, state: &mut State, stage: &Stage, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        if stage.is_slow() {
            return self.by_reference(state, stage, inputs);
        }
        let count = self.layout(stage.output).count(self.shape(stage.output));
        let mut scratch = std::mem::take(&mut state.scratch);
        match self.home(stage.output) {
            Home::Bytes(slot) => {
                let mut output = std::mem::take(&mut state.bytes[slot]);
                let scope = Scope { plan: self, state, stage, inputs };
                let dynamic = scope.to_bytes(&mut scratch, &mut output[..count]);
                state.bytes[slot] = output;
                state.dynamic[slot] = dynamic.unwrap_or(state.dynamic[slot]);
            }
            Home::Floats(slot) => {
                let mut output = std::mem::take(&mut state.floats[slot]);
                Scope { plan: self, state, stage, inputs }.to_floats(&mut scratch, &mut output[..count]);
                state.floats[slot] = output;
            }
            Home::None => {
                let lent = self.lent[stage.output.index()].and_then(|index| words::floats_mut(outputs[index]));
                if let Some(output) = lent {
                    Scope { plan: self, state, stage, inputs }.to_floats(&mut scratch, output);
                }
            }
        }
        state.scratch = scratch;
    }

    fn by_reference(&self, state: &mut State, stage: &Stage, inputs: &[&[u8]]) {
        let load = |&id: &ValueId| match self.borrowed[id.index()] {
            Some(index) => Data::F32(words::floats(inputs[index]).unwrap_or_default().to_vec()),
            None => self.load(state, id),
        };
        let mut made: Option<(ValueId, Data)> = None;
        for &step in &stage.steps {
            let step = &self.program.steps()[step];
            // Of the step before, or of an earlier stage.
            let inputs: Vec<Cow<'_, Data>> = step
                .inputs
                .iter()
                .map(|id| match &made {
                    Some((last, data)) if last == id => Cow::Borrowed(data),
                    Some(_) | None => Cow::Owned(load(id)),
                })
                .collect();
            let data = reference::run_step(&self.program, step, inputs.iter().map(AsRef::as_ref).collect());
            made = Some((step.output, data));
        }
        if let Some((id, data)) = made {
            self.store(state, id, &data);
        }
    }
}

impl Scope<'_> {
    pub fn value(&self, id: ValueId) -> &Value {
        self.plan.program.value(id)
    }

    pub fn shape(&self, id: ValueId) -> &[usize] {
        self.plan.shape(id)
    }

    /// Elements from one row of the output to the next: channels of images, the last axis of others.
    pub fn width(&self) -> usize {
        let output = self.stage.output;
        match (self.plan.layout(output), self.shape(output)) {
            (Layout::Nhwc, &[_, channels, _, _]) => channels,
            (Layout::Plain | Layout::Nhwc | Layout::Image(_), shape) => shape.last().copied().unwrap_or(1),
        }
    }

    /// An int8 value with the slack behind it.
    pub fn bytes(&self, id: ValueId) -> &[u8] {
        match self.plan.home(id) {
            Home::Bytes(slot) => &self.state.bytes[slot][..self.plan.layout(id).bytes(self.shape(id))],
            Home::Floats(_) | Home::None => panic!("an int8 value"),
        }
    }

    pub fn values(&self, id: ValueId) -> &[u8] {
        let bytes = self.bytes(id);
        &bytes[..bytes.len() - SLACK]
    }

    pub fn floats(&self, id: ValueId) -> &[f32] {
        if let Some(index) = self.plan.borrowed[id.index()] {
            return words::floats(self.inputs[index]).unwrap_or_default();
        }
        match self.plan.home(id) {
            Home::Floats(slot) => &self.state.floats[slot][..self.value(id).count()],
            Home::Bytes(_) | Home::None => panic!("a float value"),
        }
    }

    /// Scale and zero point of a value that has them from this run.
    pub fn dynamic_params(&self, id: ValueId) -> Option<(f32, i8)> {
        match (self.value(id).ty, self.plan.home(id)) {
            (Type::Dynamic, Home::Bytes(slot)) => Some(self.state.dynamic[slot]),
            (Type::Dynamic | Type::Int8(_) | Type::F32 | Type::I32, _) => None,
        }
    }

    /// Hands the output out in tiles that begin at multiples of `steps` (rows, columns), each value of it so many
    /// products dear; all of it to the caller where it is small.
    pub fn share<T: Send>(
        &self,
        mut output: TileMut<'_, T>,
        steps: [usize; 2],
        cost: usize,
        work: impl Fn(&mut TileMut<'_, T>) + Sync,
    ) {
        let threads = &self.plan.threads;
        let (rows, columns) = (output.rows().len(), output.columns().len());
        let total = rows.saturating_mul(columns).saturating_mul(cost.max(1));
        if threads.count() == 1 || total < 2 * TILE {
            return work(&mut output);
        }
        let tiles = (total / TILE).clamp(2, threads.count() * TILES);
        let high = rows.div_ceil(tiles).next_multiple_of(steps[0].max(1));
        // Columns are parted where rows do not suffice.
        let across = tiles.div_ceil(rows.div_ceil(high));
        let wide = columns.div_ceil(across).next_multiple_of(steps[1].max(1));
        let grid = output.grid(high, wide);
        threads.run(&|| {
            while let Some(mut tile) = grid.take() {
                work(&mut tile);
            }
        });
    }

    /// As `share`, for outputs in which no value has neighbours.
    pub fn share_flat<T: Send>(&self, output: &mut [T], work: impl Fn(std::ops::Range<usize>, &mut [T]) + Sync) {
        let count = output.len();
        self.share(TileMut::new(output, 1, count, count), [1, 64], VALUE, |tile| work(tile.columns(), tile.row(0)));
    }

    /// Image by image: pixels are rows, channels are columns.
    fn images<S: Sync, T: Send>(
        &self,
        input: &[S],
        output: &mut [T],
        steps: [usize; 2],
        cost: usize,
        run: impl Fn(&[S], &mut TileMut<'_, T>) + Sync,
    ) {
        let (&[n, c, h, w], &[_, m, oh, ow]) = (self.shape(self.stage.inputs[0]), self.shape(self.stage.output)) else {
            panic!("images")
        };
        for (image, output) in output.chunks_exact_mut(m * oh * ow).enumerate().take(n) {
            let input = &input[image * c * h * w..];
            self.share(TileMut::new(output, oh * ow, m, m), steps, cost, |tile| run(input, tile));
        }
    }

    /// Scale and zero point where the output has them from this run.
    fn to_bytes(&self, scratch: &mut Scratch, output: &mut [u8]) -> Option<(f32, i8)> {
        let first = self.stage.inputs[0];
        match &self.stage.kernel {
            Kernel::Quantize(convert) => self.quantize(first, convert, output),
            Kernel::DynamicQuantize => return Some(self.dynamic(first, output)),
            Kernel::Table(table) => {
                let from = self.values(first);
                self.share_flat(output, |range, to| crate::kernels::look_up(table, &from[range], to));
            }
            Kernel::Dense(dense) => self.dense(dense, output),
            Kernel::Grouped(groups) => groups.iter().for_each(|dense| self.dense(dense, output)),
            Kernel::Winograd { winograd, frame } => self.winograd(winograd, frame, scratch, output),
            Kernel::MatMul(number) => self.mat_mul(*number, scratch, output),
            Kernel::Depthwise { depthwise, map } => {
                let steps = [self.shape(self.stage.output)[3], depthwise.column_step()];
                let cost = map.map.taps() * 2 + 8;
                let run = |input: &[u8], tile: &mut TileMut<'_, u8>| depthwise.run(input, &map.map, &map.padding, tile);
                self.images(self.bytes(first), output, steps, cost, run);
            }
            Kernel::Binary { kernel, by } => self.binary(kernel, by, output),
            Kernel::Softmax { softmax, length } => self.softmax(softmax, *length, output),
            Kernel::MaxPool { pool, map } => {
                let run = |input: &[u8], tile: &mut TileMut<'_, u8>| pool.run(input, map, tile);
                self.images(self.bytes(first), output, [1, 64], map.taps() * 2, run);
            }
            Kernel::AveragePool { pool, map } => {
                let run = |input: &[u8], tile: &mut TileMut<'_, u8>| pool.run(input, map, tile);
                self.images(self.bytes(first), output, [1, 64], map.taps() * 4, run);
            }
            Kernel::GlobalAverage { pool } => self.global_average(pool, output),
            Kernel::Bilinear(resize) => {
                let &[_, c, _, w] = self.shape(first) else { panic!("an image") };
                let run = |input: &[u8], tile: &mut TileMut<'_, u8>| resize.run(input, w, c, tile);
                self.images(self.bytes(first), output, [1, 64], 32, run);
            }
            Kernel::Concat(concat) => concat.run(self.stage.inputs.iter().map(|&id| self.values(id)), output),
            Kernel::Move(moves) => self.move_bytes(moves, self.values(first), output),
            Kernel::Copy => output.copy_from_slice(self.values(first)),
            Kernel::Dequantize(_)
            | Kernel::Curve(_)
            | Kernel::Float(_)
            | Kernel::FloatBinary { .. }
            | Kernel::FloatDepthwise { .. }
            | Kernel::FloatProducts(_)
            | Kernel::FloatPool { .. }
            | Kernel::FloatMatMul { .. }
            | Kernel::Rows { .. }
            | Kernel::Reference => {
                panic!("a kernel that makes bytes")
            }
        }
        // What only moves keeps them.
        self.dynamic_params(first).filter(|_| self.value(self.stage.output).ty == Type::Dynamic)
    }

    fn global_average(&self, pool: &AveragePool, output: &mut [u8]) {
        let first = self.stage.inputs[0];
        let &[n, c, h, w] = self.shape(first) else { panic!("an image") };
        let input = self.bytes(first);
        for (image, output) in output.chunks_exact_mut(c).enumerate().take(n) {
            pool.run_global(&input[image * c * h * w..], h * w, c, output);
        }
    }

    fn to_floats(&self, scratch: &mut Scratch, output: &mut [f32]) {
        let first = self.stage.inputs[0];
        match &self.stage.kernel {
            Kernel::Dequantize(convert) => self.dequantize(output, |from, to| convert.dequantize(from, to)),
            Kernel::Curve(curve) => self.dequantize(output, |from, to| {
                to.iter_mut().zip(from).for_each(|(to, &byte)| *to = curve[usize::from(byte)]);
            }),
            Kernel::Dense(dense) => self.dense_float(dense, &mut scratch.padding, output),
            Kernel::Grouped(groups) => {
                groups.iter().for_each(|dense| self.dense_float(dense, &mut scratch.padding, output));
            }
            Kernel::MatMul(number) => self.mat_mul_float(*number, scratch, output),
            Kernel::FloatDepthwise { depthwise, map, end, zero_point } => {
                let by = end.by(self.dynamic_params(first).unwrap_or((1.0, *zero_point)));
                let steps = [1, depthwise.column_step()];
                let cost = map.taps() * 4 + 8;
                self.images(self.bytes(self.stage.inputs[0]), output, steps, cost, |input, tile| {
                    depthwise.run(input, map, &by, tile)
                });
            }
            Kernel::Float(function) => {
                let from = self.floats(first);
                self.share_flat(output, |range, to| approximate::apply(self.plan.isa, *function, &from[range], to));
            }
            Kernel::FloatBinary { function, by } => {
                let (a, b) = (self.floats(first), self.floats(self.stage.inputs[1]));
                let isa = self.plan.isa;
                self.broadcast(by, a, b, output, |a, b, to| function.apply(isa, a, b, to));
            }
            Kernel::FloatProducts(products) => self.float_products(products, scratch, output),
            Kernel::FloatPool { pool, map } => {
                let steps = [1, 64];
                self.images(self.floats(self.stage.inputs[0]), output, steps, map.taps() * 4, |input, tile| {
                    pool.run(input, map, tile)
                });
            }
            Kernel::FloatMatMul { product, matrices } => self.float_mat_mul(product, matrices, output),
            Kernel::Rows { function, width } => self.rows(function, *width, output),
            Kernel::Concat(concat) => concat.run(self.stage.inputs.iter().map(|&id| self.floats(id)), output),
            Kernel::Move(moves) => self.move_floats(moves, self.floats(first), output),
            Kernel::Copy => output.copy_from_slice(self.floats(first)),
            Kernel::Quantize(_)
            | Kernel::DynamicQuantize
            | Kernel::Table(_)
            | Kernel::Winograd { .. }
            | Kernel::Depthwise { .. }
            | Kernel::Binary { .. }
            | Kernel::Softmax { .. }
            | Kernel::MaxPool { .. }
            | Kernel::AveragePool { .. }
            | Kernel::GlobalAverage { .. }
            | Kernel::Bilinear(_)
            | Kernel::Reference => panic!("a kernel that makes floats"),
        }
    }

    /// Value by value; where images leave, turned on the way.
    fn dequantize(&self, output: &mut [f32], of: impl Fn(&[u8], &mut [f32]) + Sync) {
        let id = self.stage.inputs[0];
        let from = self.values(id);
        let turns = self.plan.layout(id) != self.plan.layout(self.stage.output);
        match self.shape(id) {
            // One pixel, or one channel, is the same either way.
            &[_, channels, height, width] if turns && channels > 1 && height * width > 1 => {
                let pixels = height * width;
                let size = (channels * pixels).max(1);
                for (from, to) in from.chunks_exact(size).zip(output.chunks_exact_mut(size)) {
                    kernels::by_channel(from, pixels, channels, |channel, pixel, values| {
                        of(values, &mut to[channel * pixels + pixel..][..values.len()]);
                    });
                }
            }
            _ => self.share_flat(output, |range, to| of(&from[range], to)),
        }
    }

    fn quantize(&self, id: ValueId, convert: &Convert, output: &mut [u8]) {
        let from = self.floats(id);
        let to = self.plan.layout(self.stage.output);
        let image = match (self.shape(id), to) {
            (_, Layout::Image(image)) => image,
            (&[_, channels, height, width], Layout::Nhwc) if self.plan.layout(id) == Layout::Plain => {
                Image { channels, height, width, pixel_stride: channels, border: [0; 4] }
            }
            (_, Layout::Plain | Layout::Nhwc) => {
                return self.share_flat(output, |range, to| convert.quantize(&from[range], to));
            }
        };
        let size = (image.channels * image.height * image.width).max(1);
        for (from, to) in from.chunks_exact(size).zip(output.chunks_exact_mut(image.bytes())) {
            convert.quantize_image(&image, from, to);
        }
    }

    /// Quantizes by the range that the values have.
    fn dynamic(&self, from: ValueId, output: &mut [u8]) -> (f32, i8) {
        let range = kernels::range(self.plan.isa, self.floats(from)).unwrap_or_default();
        let (scale, zero_point) = reference::dynamic_params(&range);
        let (isa, storage) = (self.plan.isa, self.plan.isa.storage());
        match Convert::new(isa, storage, Quantization { scale, zero_point }) {
            Ok(convert) => self.quantize(from, &convert, output),
            // A scale that no kernel takes: values so small, or so large, are all alike.
            Err(_) => output.fill(storage.byte(zero_point)),
        }
        (scale, zero_point)
    }
}

impl Plan {
    /// A value as the reference has it.
    fn load(&self, state: &State, id: ValueId) -> Data {
        let value = self.program.value(id);
        match (value.ty, self.home(id)) {
            (Type::Int8(_), Home::Bytes(slot)) => Data::Int8(self.signed(&state.bytes[slot], id)),
            (Type::Dynamic, Home::Bytes(slot)) => {
                let (scale, zero_point) = state.dynamic[slot];
                Data::Dynamic { values: self.signed(&state.bytes[slot], id), scale, zero_point }
            }
            (Type::F32, Home::Floats(slot)) => Data::F32(self.plain(id, &state.floats[slot])),
            // Bits of integers in floats' memory.
            (Type::I32, Home::Floats(slot)) => {
                let words = self.plain(id, &state.floats[slot]);
                Data::I32(words.into_iter().map(|word| word.to_bits().cast_signed()).collect())
            }
            (Type::Int8(_) | Type::Dynamic | Type::F32 | Type::I32, _) => panic!("a value's own home"),
        }
    }

    fn signed(&self, slot: &[u8], id: ValueId) -> Vec<i8> {
        let storage = self.isa.storage();
        self.plain(id, slot).into_iter().map(|byte| storage.value(byte)).collect()
    }

    /// In NCHW.
    fn plain<T: Copy>(&self, id: ValueId, slot: &[T]) -> Vec<T> {
        let shape = self.shape(id);
        let count: usize = shape.iter().product();
        match self.layout(id) {
            Layout::Plain => slot[..count].to_vec(),
            Layout::Nhwc => {
                let mut to = slot[..count].to_vec();
                layout::to_nchw(&slot[..count], shape, &mut to);
                to
            }
            Layout::Image(image) => {
                let pick = |index: usize| slot[layout::place_in(&image, index)];
                (0..count).map(pick).collect()
            }
        }
    }

    /// From how the reference has it.
    pub(super) fn store(&self, state: &mut State, id: ValueId, data: &Data) {
        let storage = self.isa.storage();
        let stored = |values: &[i8]| -> Vec<u8> { values.iter().map(|&value| storage.byte(value)).collect() };
        match (data, self.home(id)) {
            (Data::Int8(values), Home::Bytes(slot)) => self.lay(id, &stored(values), &mut state.bytes[slot]),
            (Data::Dynamic { values, scale, zero_point }, Home::Bytes(slot)) => {
                state.dynamic[slot] = (*scale, *zero_point);
                self.lay(id, &stored(values), &mut state.bytes[slot]);
            }
            (Data::F32(values), Home::Floats(slot)) => self.lay(id, values, &mut state.floats[slot]),
            (Data::I32(values), Home::Floats(slot)) => {
                let words: Vec<f32> = values.iter().map(|&value| f32::from_bits(value.cast_unsigned())).collect();
                self.lay(id, &words, &mut state.floats[slot]);
            }
            (Data::Int8(_) | Data::Dynamic { .. } | Data::F32(_) | Data::I32(_), _) => panic!("a value's own home"),
        }
    }

    fn lay<T: Copy>(&self, id: ValueId, from: &[T], to: &mut [T]) {
        match self.layout(id) {
            Layout::Nhwc => layout::to_nhwc(from, self.shape(id), &mut to[..from.len()]),
            Layout::Plain | Layout::Image(_) => to[..from.len()].copy_from_slice(from),
        }
    }
}
