//! Orders of channels as operators have them: in weights, in what stands beside them, in maps.

use super::super::super::op::{Conv, Finish, Op, Weights};
use std::sync::Arc;

pub fn is_identity(order: &[usize]) -> bool {
    order.iter().enumerate().all(|(place, &channel)| place == channel)
}

pub fn is_permutation(places: &[usize], count: usize) -> bool {
    let mut seen = vec![false; count];
    let fresh = |&place: &usize| seen.get_mut(place).is_some_and(|seen| !std::mem::replace(seen, true));
    places.len() == count && places.iter().all(fresh)
}

/// The place of each channel.
pub fn inverse(order: Option<&[usize]>, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    let order = order.unwrap_or_default();
    order.iter().enumerate().for_each(|(place, &channel)| places[channel] = place);
    places
}

/// The channel of `[N, C, H, W]` by channel of what a reshape, a transposition and a reshape back make of it; `None`
/// where they move more than channels.
pub fn shuffle(shape: &[usize], parts: &[usize], permutation: &[usize]) -> Option<Vec<usize>> {
    let &[n, channels, h, w] = shape else { return None };
    let stays = |axis: &usize| permutation.get(*axis) == Some(axis);
    let product = |axes: std::ops::Range<usize>| parts.get(axes).map(|sizes| sizes.iter().product::<usize>());
    // Axes of images come first, those of pixels last.
    let ahead = (0..=parts.len()).find(|&end| product(0..end) == Some(n)).filter(|&end| (0..end).all(|a| stays(&a)))?;
    let behind = (ahead..=parts.len()).rev().find(|&start| product(start..parts.len()) == Some(h * w));
    let behind = behind.filter(|&start| (start..parts.len()).all(|a| stays(&a)))?;
    if product(ahead..behind) != Some(channels) || permutation.len() != parts.len() {
        return None;
    }
    let mut map = vec![0];
    for &axis in &permutation[ahead..behind] {
        let stride = product(axis + 1..behind)?;
        map = map.iter().flat_map(|&at| (0..parts[axis]).map(move |i| at + i * stride)).collect();
    }
    Some(map)
}

/// A step that takes the channels at these places.
pub fn take(places: Vec<usize>) -> Op {
    let (start, next) = (places.first().copied().unwrap_or(0), places.get(1).copied());
    let step = next.and_then(|next| next.checked_sub(start)).filter(|&step| step > 0).unwrap_or(1);
    if places.iter().enumerate().all(|(k, &place)| place == start + k * step) {
        return Op::Slice { starts: vec![0, start, 0, 0], steps: vec![1, step, 1, 1] };
    }
    Op::Select { maps: vec![None, Some(places.into()), None, None] }
}

/// Whether each channel of the output is made of the one channel of the input.
pub fn is_by_channel(op: &Op) -> bool {
    let depthwise = |conv: &Conv| {
        let shape = &conv.weights.shape;
        shape.first() == Some(&conv.group) && shape.get(1) == Some(&1)
    };
    let of_values = matches!(op, Op::Table(_) | Op::Quantize | Op::Dequantize(_) | Op::Float(_));
    let of_windows = matches!(op, Op::MaxPool(_) | Op::AveragePool(_) | Op::Bilinear(_) | Op::FloatAverage(_));
    of_values || of_windows || if let Op::Conv(conv) = op { depthwise(conv) } else { false }
}

/// Whether an operator of one input does to each channel the same, whichever it is. Shapes say how many there are.
pub fn leaves_channels(op: &Op) -> bool {
    if let Op::Pad { before, .. } = op {
        before.get(1) == Some(&0)
    } else if let Op::Slice { starts, steps } = op {
        (starts.get(1), steps.get(1)) == (Some(&0), Some(&1))
    } else if let Op::Select { maps } = op {
        maps.get(1) == Some(&None)
    } else if let Op::Mean(mean) = op {
        !mean.axes.contains(&1)
    } else {
        !matches!(op, Op::Conv(_)) && is_by_channel(op)
    }
}

/// A convolution of all channels whose input lies so.
pub fn inputs(conv: &Conv, order: &[usize]) -> Conv {
    let weights = &conv.weights;
    let taps: usize = weights.shape[2..].iter().product();
    let rows = weights.data.chunks_exact(order.len() * taps);
    let data = rows.flat_map(|row| order.iter().flat_map(move |&channel| &row[channel * taps..][..taps])).copied();
    Conv { weights: Weights { data: data.collect(), ..weights.clone() }, ..conv.clone() }
}

/// A convolution that makes at each place the channel that it made at another one.
pub fn outputs(conv: &Conv, places: &[usize]) -> Conv {
    let weights = &conv.weights;
    let row: usize = weights.shape[1..].iter().product();
    let data = places.iter().flat_map(|&place| &weights.data[place * row..][..row]).copied().collect();
    let zero_points = pick(&weights.zero_points, places);
    let finish = match &conv.finish {
        Finish::Requantize { multipliers, zero_point, low, high, table } => Finish::Requantize {
            multipliers: pick(multipliers, places),
            zero_point: *zero_point,
            low: *low,
            high: *high,
            table: table.clone(),
        },
        Finish::Float { scales, bias } => Finish::Float { scales: pick(scales, places), bias: pick(bias, places) },
        Finish::Accumulator => Finish::Accumulator,
    };
    let weights = Weights { data, shape: weights.shape.clone(), zero_points };
    Conv { weights, bias: pick(&conv.bias, places), finish, ..conv.clone() }
}

/// What is there once for all stays.
fn pick<T: Copy>(values: &Arc<[T]>, places: &[usize]) -> Arc<[T]> {
    if values.len() <= 1 { Arc::clone(values) } else { places.iter().map(|&place| values[place]).collect() }
}
