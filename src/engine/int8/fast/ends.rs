//! Between the bytes of ONNX tensors and values in memory.
//!
//! Floats that come and go as they lie are read and written where they are.

use super::super::program::{Program, QuantParams, Type, ValueId};
use super::super::reference::InputError;
use super::layout::{Layout, place_in, turn};
use super::slots::Home;
use super::stage::Stage;
use super::{Plan, State};
use crate::kernels::part;

impl Plan {
    /// By value: its number among the inputs, where stages read it there.
    pub(super) fn borrowed(program: &Program, layouts: &[Layout]) -> Vec<Option<usize>> {
        let mut borrowed = vec![None; program.values().len()];
        for (index, &id) in program.inputs().iter().enumerate() {
            let plain = program.value(id).ty == Type::F32 && layouts[id.index()] == Layout::Plain;
            borrowed[id.index()] = Some(index).filter(|_| plain && !program.outputs().contains(&id));
        }
        borrowed
    }

    /// By value: its number among the outputs, where the stage that makes it writes it there.
    pub(super) fn lent(program: &Program, layouts: &[Layout], stages: &[Stage]) -> Vec<Option<usize>> {
        let mut lent = vec![None; program.values().len()];
        let mut fits = vec![false; program.values().len()];
        stages.iter().filter(|stage| !stage.is_slow()).for_each(|stage| fits[stage.output.index()] = true);
        stages.iter().flat_map(|stage| &stage.inputs).for_each(|id| fits[id.index()] = false);
        for (index, &id) in program.outputs().iter().enumerate() {
            let plain = program.value(id).ty == Type::F32 && layouts[id.index()] == Layout::Plain;
            lent[id.index()] = Some(index).filter(|_| plain && fits[id.index()]);
            // A value that leaves twice is copied.
            fits[id.index()] = false;
        }
        lent
    }

    /// From little-endian bytes in NCHW.
    pub(super) fn enter(&self, state: &mut State, id: ValueId, index: usize, bytes: &[u8]) -> Result<(), InputError> {
        let wanted = self.bytes_outside(id).ok_or(InputError::Type { index })?;
        if bytes.len() != wanted {
            return Err(InputError::Bytes { index, wanted, found: bytes.len() });
        }
        let shape = self.shape(id);
        match (self.program.value(id).ty, self.home(id)) {
            (_, Home::None) => {}
            (Type::Int8(params), Home::Bytes(slot)) => self.enter_int8(params, id, bytes, &mut state.bytes[slot]),
            (Type::F32 | Type::I32, Home::Floats(slot)) => {
                // Bits of integers too: as an f32 they are not touched.
                let words = bytes.as_chunks::<4>().0;
                let to = &mut state.floats[slot][..words.len()];
                let float = |word: [u8; 4]| f32::from_bits(u32::from_le_bytes(word));
                match (self.layout(id), shape) {
                    (Layout::Nhwc, &[_, c, h, w]) => turn(words, c, h * w, to, float),
                    (Layout::Plain | Layout::Nhwc | Layout::Image(_), _) => {
                        to.iter_mut().zip(words).for_each(|(to, &word)| *to = float(word));
                    }
                }
            }
            (Type::Int8(_) | Type::F32 | Type::I32 | Type::Dynamic, _) => {}
        }
        Ok(())
    }

    fn enter_int8(&self, params: QuantParams, id: ValueId, bytes: &[u8], to: &mut [u8]) {
        let storage = self.isa.storage();
        let flip = storage.flip_from(params.signed);
        match (self.layout(id), self.shape(id)) {
            (Layout::Nhwc, &[_, c, h, w]) => {
                for (from, to) in bytes.chunks_exact(c * h * w).zip(to.chunks_exact_mut(c * h * w)) {
                    part(from, [c, h * w], [h * w, c], to, flip);
                }
            }
            (Layout::Image(image), shape) => {
                to[..self.layout(id).count(shape)].fill(storage.byte(params.zero_point));
                bytes.iter().enumerate().for_each(|(index, byte)| to[place_in(&image, index)] = byte ^ flip);
            }
            (Layout::Plain | Layout::Nhwc, _) => {
                to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte ^ flip);
            }
        }
    }

    /// To little-endian bytes in NCHW. The output has as many as the value.
    pub(super) fn leave(&self, state: &State, id: ValueId, to: &mut [u8]) {
        let shape = self.shape(id);
        match (self.program.value(id).ty, self.home(id)) {
            (Type::Int8(params), Home::Bytes(slot)) => {
                let flip = self.isa.storage().flip_from(params.signed);
                let from = &state.bytes[slot][..to.len()];
                match (self.layout(id), shape) {
                    (Layout::Nhwc, &[_, c, h, w]) => {
                        for (from, to) in from.chunks_exact(c * h * w).zip(to.chunks_exact_mut(c * h * w)) {
                            part(from, [h * w, c], [c, h * w], to, flip);
                        }
                    }
                    (Layout::Plain | Layout::Nhwc | Layout::Image(_), _) => {
                        to.iter_mut().zip(from).for_each(|(to, byte)| *to = byte ^ flip);
                    }
                }
            }
            (_, Home::Floats(slot)) => {
                let words = to.as_chunks_mut::<4>().0;
                let from = &state.floats[slot][..words.len()];
                let word = |float: f32| float.to_bits().to_le_bytes();
                match (self.layout(id), shape) {
                    (Layout::Nhwc, &[_, c, h, w]) => turn(from, h * w, c, words, word),
                    (Layout::Plain | Layout::Nhwc | Layout::Image(_), _) => {
                        words.iter_mut().zip(from).for_each(|(to, &float)| *to = word(float));
                    }
                }
            }
            (Type::Int8(_) | Type::F32 | Type::I32 | Type::Dynamic, _) => {}
        }
    }

    /// Bytes of a value as an ONNX tensor; `None` where it is none.
    pub fn bytes_outside(&self, id: ValueId) -> Option<usize> {
        let value = self.program.value(id);
        match value.ty {
            Type::Int8(_) => Some(value.count()),
            Type::F32 | Type::I32 => Some(value.count() * 4),
            Type::Dynamic => None,
        }
    }
}
