//! One step at a time.

use super::super::program::{Step, Type, Value, ValueId};
use super::super::reference::{self, Data, InputError};
use super::kernel::{Dense, Kernel, Map};
use super::slots::Home;
use super::{Plan, State, layout};
use crate::kernels::{Convert, Dynamic, Image, Quantization, Rows, SLACK, Source, TileMut};

impl Plan {
    pub(super) fn step(&self, state: &mut State, step: &Step, kernel: &Kernel) {
        match (kernel, self.home(step.output)) {
            (Kernel::Nothing, _) => {}
            (Kernel::Reference, _) => self.by_reference(state, step),
            (Kernel::DynamicQuantize, Home::Bytes(slot)) => {
                let mut output = std::mem::take(&mut state.bytes[slot]);
                let count = self.program.value(step.output).count();
                state.dynamic[slot] = self.dynamic(state, step.inputs[0], &mut output[..count]);
                state.bytes[slot] = output;
            }
            (_, Home::Bytes(slot)) => {
                let mut output = std::mem::take(&mut state.bytes[slot]);
                let count = self.program.value(step.output).count();
                self.to_bytes(state, step, kernel, &mut output[..count]);
                state.bytes[slot] = output;
            }
            (_, Home::Floats(slot)) => {
                let mut output = std::mem::take(&mut state.floats[slot]);
                let count = self.program.value(step.output).count();
                self.to_floats(state, step, kernel, &mut output[..count]);
                state.floats[slot] = output;
            }
        }
    }

    /// An int8 value with the slack behind it.
    fn bytes<'s>(&self, state: &'s State, id: ValueId) -> &'s [u8] {
        match self.home(id) {
            Home::Bytes(slot) => &state.bytes[slot][..self.program.value(id).count() + SLACK],
            Home::Floats(_) => panic!("an int8 value"),
        }
    }

    fn values<'s>(&self, state: &'s State, id: ValueId) -> &'s [u8] {
        &self.bytes(state, id)[..self.program.value(id).count()]
    }

    fn floats<'s>(&self, state: &'s State, id: ValueId) -> &'s [f32] {
        match self.home(id) {
            Home::Floats(slot) => &state.floats[slot][..self.program.value(id).count()],
            Home::Bytes(_) => panic!("a float value"),
        }
    }

    fn to_bytes(&self, state: &State, step: &Step, kernel: &Kernel, output: &mut [u8]) {
        let first = step.inputs[0];
        match kernel {
            Kernel::Quantize(convert) => self.quantize(state, first, convert, output),
            Kernel::Table(table) => crate::kernels::look_up(table, self.values(state, first), output),
            Kernel::Dense(dense) => self.dense(state, step, dense, output),
            Kernel::Depthwise { depthwise, map } => {
                self.images(state, step, output, |input, output| depthwise.run(input, &map.map, &map.padding, output));
            }
            Kernel::Add(add) => add.run(self.values(state, first), self.values(state, step.inputs[1]), output),
            Kernel::Mul(mul) => mul.run(self.values(state, first), self.values(state, step.inputs[1]), output),
            Kernel::MaxPool { pool, map } => {
                self.images(state, step, output, |input, output| pool.run(input, map, output));
            }
            Kernel::AveragePool { pool, map } => {
                self.images(state, step, output, |input, output| pool.run(input, map, output));
            }
            Kernel::GlobalAverage { pool } => {
                let &[n, c, h, w] = self.shape(first) else { panic!("an image") };
                let input = self.bytes(state, first);
                for (image, output) in output.chunks_exact_mut(c).enumerate().take(n) {
                    pool.run_global(&input[image * c * h * w..], h * w, c, output);
                }
            }
            Kernel::Concat { blocks } => self.concat(state, step, *blocks, output),
            Kernel::Gather { places, fill } => {
                let from = self.values(state, first);
                let pick = |place: &Option<u32>| place.map_or(*fill, |place| from[place as usize]);
                output.iter_mut().zip(places).for_each(|(to, place)| *to = pick(place));
            }
            Kernel::Copy => output.copy_from_slice(self.values(state, first)),
            Kernel::Nothing
            | Kernel::Dequantize(_)
            | Kernel::DynamicQuantize
            | Kernel::Float(_)
            | Kernel::FloatBinary(_)
            | Kernel::Reference => panic!("a kernel that makes bytes"),
        }
    }

    fn to_floats(&self, state: &State, step: &Step, kernel: &Kernel, output: &mut [f32]) {
        let first = step.inputs[0];
        match kernel {
            Kernel::Dequantize(curve) => {
                let from = self.values(state, first);
                output.iter_mut().zip(from).for_each(|(to, &byte)| *to = curve[usize::from(byte)]);
            }
            Kernel::Dense(dense) => self.dense_float(state, step, dense, output),
            Kernel::Float(function) => {
                let from = self.floats(state, first);
                output.iter_mut().zip(from).for_each(|(to, &x)| *to = function.of(x));
            }
            Kernel::FloatBinary(function) => {
                let (a, b) = (self.floats(state, first), self.floats(state, step.inputs[1]));
                output.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (&a, &b))| *to = function.of(a, b));
            }
            Kernel::Nothing
            | Kernel::Quantize(_)
            | Kernel::DynamicQuantize
            | Kernel::Table(_)
            | Kernel::Depthwise { .. }
            | Kernel::Add(_)
            | Kernel::Mul(_)
            | Kernel::MaxPool { .. }
            | Kernel::AveragePool { .. }
            | Kernel::GlobalAverage { .. }
            | Kernel::Concat { .. }
            | Kernel::Copy
            | Kernel::Gather { .. }
            | Kernel::Reference => panic!("a kernel that makes floats"),
        }
    }

    /// Image by image: pixels are rows, channels are columns.
    fn images<T>(&self, state: &State, step: &Step, output: &mut [T], run: impl Fn(&[u8], &mut TileMut<'_, T>)) {
        let (&[n, c, h, w], &[_, m, oh, ow]) = (self.shape(step.inputs[0]), self.shape(step.output)) else {
            panic!("images")
        };
        let input = self.bytes(state, step.inputs[0]);
        for (image, output) in output.chunks_exact_mut(m * oh * ow).enumerate().take(n) {
            let input = &input[image * c * h * w..];
            run(input, &mut TileMut::new(output, oh * ow, m, m));
        }
    }

    fn dense(&self, state: &State, step: &Step, dense: &Dense, output: &mut [u8]) {
        if let Some(map) = &dense.map {
            let run = |data: &[u8], output: &mut TileMut<'_, u8>| dense.gemm.run(&source(data, map), output);
            return self.images(state, step, output, run);
        }
        let data = self.bytes(state, step.inputs[0]);
        let rows = output.len() / dense.n;
        let source = Source { data, rows: Rows::Direct { stride: dense.k } };
        dense.gemm.run(&source, &mut TileMut::new(output, rows, dense.n, dense.n));
    }

    fn dense_float(&self, state: &State, step: &Step, dense: &Dense, output: &mut [f32]) {
        let bias = dense.float_bias.as_deref().unwrap_or(&[]);
        let (scale, input_zero_point) = match (self.program.value(step.inputs[0]).ty, self.home(step.inputs[0])) {
            (Type::Dynamic, Home::Bytes(slot)) => state.dynamic[slot],
            _ => (1.0, dense.zero_point),
        };
        let by = Dynamic { input_zero_point, scale, bias };
        if let Some(map) = &dense.map {
            let padding = vec![self.isa.storage().byte(input_zero_point); map.padding.len()];
            let rows = Rows::Indirect { map: &map.map, padding: &padding };
            return self.images(state, step, output, |data, output| {
                dense.gemm.run_dynamic(&Source { data, rows }, &by, output);
            });
        }
        let data = self.bytes(state, step.inputs[0]);
        let rows = output.len() / dense.n;
        let source = Source { data, rows: Rows::Direct { stride: dense.k } };
        dense.gemm.run_dynamic(&source, &by, &mut TileMut::new(output, rows, dense.n, dense.n));
    }

    fn quantize(&self, state: &State, id: ValueId, convert: &Convert, output: &mut [u8]) {
        let from = self.floats(state, id);
        match *self.shape(id) {
            [_, channels, height, width] if !self.is_turned(id) => {
                let image = Image { channels, height, width, pixel_stride: channels, border: [0; 4] };
                let size = (channels * height * width).max(1);
                for (from, to) in from.chunks_exact(size).zip(output.chunks_exact_mut(size)) {
                    convert.quantize_image(&image, from, to);
                }
            }
            _ => convert.quantize(from, output),
        }
    }

    /// Quantizes by the range that the values have.
    fn dynamic(&self, state: &State, from: ValueId, output: &mut [u8]) -> (f32, i8) {
        let (scale, zero_point) = reference::dynamic_params(self.floats(state, from));
        match Convert::new(self.isa, self.isa.storage(), Quantization { scale, zero_point }) {
            Ok(convert) => self.quantize(state, from, &convert, output),
            // A scale that no kernel takes: values so small, or so large, are all alike.
            Err(_) => output.fill(self.isa.storage().byte(zero_point)),
        }
        (scale, zero_point)
    }

    fn concat(&self, state: &State, step: &Step, blocks: usize, output: &mut [u8]) {
        let width = output.len() / blocks.max(1);
        let mut start = 0;
        for &id in &step.inputs {
            let from = self.values(state, id);
            let part = from.len() / blocks.max(1);
            for (to, from) in output.chunks_exact_mut(width).zip(from.chunks_exact(part)) {
                to[start..][..part].copy_from_slice(from);
            }
            start += part;
        }
    }

    fn by_reference(&self, state: &mut State, step: &Step) {
        let inputs: Vec<Data> = step.inputs.iter().map(|&id| self.load(state, id)).collect();
        let made = reference::run_step(&self.program, step, inputs.iter().collect());
        self.store(state, step.output, &made);
    }

    /// A value as the reference has it.
    fn load(&self, state: &State, id: ValueId) -> Data {
        let value = self.program.value(id);
        match (value.ty, self.home(id)) {
            (Type::Int8(_), _) => Data::Int8(self.signed(state, id)),
            (Type::Dynamic, Home::Bytes(slot)) => {
                let (scale, zero_point) = state.dynamic[slot];
                Data::Dynamic { values: self.signed(state, id), scale, zero_point }
            }
            (Type::F32, _) => Data::F32(self.plain(id, value, self.floats(state, id))),
            // Bits of integers in floats' memory.
            (Type::I32 | Type::Dynamic, _) => {
                let words = self.plain(id, value, self.floats(state, id));
                Data::I32(words.into_iter().map(|word| word.to_bits().cast_signed()).collect())
            }
        }
    }

    fn signed(&self, state: &State, id: ValueId) -> Vec<i8> {
        let storage = self.isa.storage();
        let plain = self.plain(id, self.program.value(id), self.values(state, id));
        plain.into_iter().map(|byte| storage.value(byte)).collect()
    }

    /// In NCHW.
    fn plain<T: Copy>(&self, id: ValueId, value: &Value, from: &[T]) -> Vec<T> {
        let mut to = from.to_vec();
        if self.is_turned(id) {
            layout::to_nchw(from, &value.shape, &mut to);
        }
        to
    }

    /// From how the reference has it.
    pub(super) fn store(&self, state: &mut State, id: ValueId, data: &Data) {
        let storage = self.isa.storage();
        let stored = |values: &[i8]| -> Vec<u8> { values.iter().map(|&value| storage.byte(value)).collect() };
        match (data, self.home(id)) {
            (Data::Int8(values), Home::Bytes(slot)) => self.turn(id, &stored(values), &mut state.bytes[slot]),
            (Data::Dynamic { values, scale, zero_point }, Home::Bytes(slot)) => {
                state.dynamic[slot] = (*scale, *zero_point);
                self.turn(id, &stored(values), &mut state.bytes[slot]);
            }
            (Data::F32(values), Home::Floats(slot)) => self.turn(id, values, &mut state.floats[slot]),
            (Data::I32(values), Home::Floats(slot)) => {
                let words: Vec<f32> = values.iter().map(|&value| f32::from_bits(value.cast_unsigned())).collect();
                self.turn(id, &words, &mut state.floats[slot]);
            }
            (Data::Int8(_) | Data::Dynamic { .. } | Data::F32(_) | Data::I32(_), _) => panic!("a value's own home"),
        }
    }

    fn turn<T: Copy>(&self, id: ValueId, from: &[T], to: &mut [T]) {
        let to = &mut to[..from.len()];
        match self.is_turned(id) {
            true => layout::to_nhwc(from, self.shape(id), to),
            false => to.copy_from_slice(from),
        }
    }

    pub(super) fn enter(&self, state: &mut State, id: ValueId, index: usize, bytes: &[u8]) -> Result<(), InputError> {
        let data = reference::from_bytes(self.program.value(id), index, bytes)?;
        self.store(state, id, &data);
        Ok(())
    }

    pub(super) fn leave(&self, state: &State, id: ValueId) -> Vec<u8> {
        reference::to_bytes(self.program.value(id), &self.load(state, id))
    }
}

fn source<'a>(data: &'a [u8], map: &'a Map) -> Source<'a> {
    Source { data, rows: Rows::Indirect { map: &map.map, padding: &map.padding } }
}
