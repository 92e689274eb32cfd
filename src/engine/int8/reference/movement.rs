//! What moves values without changing them, of every type.

use super::elementwise::advance;
use super::{Data, Frame};
use std::sync::Arc;

/// Values of the output from places of the input, or a constant for those that have none.
fn gather(data: &Data, places: &[Option<usize>], fill: i8) -> Data {
    fn pick<T: Copy>(values: &[T], places: &[Option<usize>], fill: T) -> Vec<T> {
        places.iter().map(|place| place.map_or(fill, |place| values[place])).collect()
    }
    match data {
        Data::Int8(values) => Data::Int8(pick(values, places, fill)),
        Data::Dynamic { values, scale, zero_point } => {
            Data::Dynamic { values: pick(values, places, *zero_point), scale: *scale, zero_point: *zero_point }
        }
        Data::F32(values) => Data::F32(pick(values, places, f32::from(fill))),
        Data::I32(values) => Data::I32(pick(values, places, i32::from(fill))),
    }
}

/// The places from which an output takes its values: per axis, the input's index for each index of the output.
fn places(frame: &Frame, index: impl Fn(usize, usize) -> Option<usize>) -> Vec<Option<usize>> {
    let (from, to) = (&frame.input(0).shape, &frame.output().shape);
    let mut at = vec![0; to.len()];
    let place =
        |at: &[usize]| (0..to.len()).try_fold(0, |place, axis| Some(place * from[axis] + index(axis, at[axis])?));
    (0..frame.output().count())
        .map(|_| {
            let found = place(&at);
            advance(&mut at, to);
            found
        })
        .collect()
}

pub(super) fn select(frame: &Frame, maps: &[Option<Arc<[usize]>>]) -> Data {
    let places = places(frame, |axis, i| Some(maps[axis].as_ref().map_or(i, |map| map[i])));
    gather(frame.data(0), &places, 0)
}

pub(super) fn slice(frame: &Frame, starts: &[usize], steps: &[usize]) -> Data {
    let places = places(frame, |axis, i| Some(starts[axis] + i * steps[axis]));
    gather(frame.data(0), &places, 0)
}

pub(super) fn pad(frame: &Frame, before: &[usize], value: i8) -> Data {
    let from = &frame.input(0).shape;
    let places = places(frame, |axis, i| i.checked_sub(before[axis]).filter(|&i| i < from[axis]));
    gather(frame.data(0), &places, value)
}

pub(super) fn transpose(frame: &Frame, permutation: &[usize]) -> Data {
    let (from, to) = (&frame.input(0).shape, &frame.output().shape);
    let stride = |axis: usize| from[axis + 1..].iter().product::<usize>();
    let strides: Vec<usize> = permutation.iter().map(|&axis| stride(axis)).collect();
    let mut at = vec![0; to.len()];
    let places: Vec<_> = (0..frame.output().count())
        .map(|_| {
            let place = at.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
            advance(&mut at, to);
            Some(place)
        })
        .collect();
    gather(frame.data(0), &places, 0)
}

/// Whole blocks of each input, one input after the other.
pub(super) fn concat(frame: &Frame, axis: usize) -> Data {
    fn join<T: Copy>(outer: usize, parts: &[&[T]]) -> Vec<T> {
        let row = |i| parts.iter().flat_map(move |part| part[i * part.len() / outer..][..part.len() / outer].iter());
        (0..outer).flat_map(row).copied().collect()
    }
    let outer = frame.output().shape[..axis].iter().product();
    let count = frame.step.inputs.len();
    match frame.data(0) {
        Data::Int8(_) | Data::Dynamic { .. } => {
            Data::Int8(join(outer, &(0..count).map(|i| frame.int8(i).0).collect::<Vec<_>>()))
        }
        Data::F32(_) => Data::F32(join(outer, &(0..count).map(|i| frame.f32(i)).collect::<Vec<_>>())),
        Data::I32(_) => panic!("no concatenation of accumulators"),
    }
}
