//! Depthwise convolutions: each plane by its own taps, line by line, without columns.

use super::conv::{Sizes, over_batch};
use rayon::prelude::*;

/// Outputs of one input channel.
fn each(sizes: &Sizes) -> usize {
    sizes.outputs / sizes.inputs
}

fn taps(sizes: &Sizes) -> usize {
    sizes.window.kernel[0] * sizes.window.kernel[1]
}

/// Visits what a tap multiplies: (tap, offset in the plane, offset in the answer, count), line by line.
fn lines(sizes: &Sizes, mut visit: impl FnMut(usize, usize, usize, usize)) {
    let window = &sizes.window;
    for kh in 0..window.kernel[0] {
        let (rows, first) = window.valid(0, kh);
        for kw in 0..window.kernel[1] {
            let (columns, start) = window.valid(1, kw);
            for (at, row) in rows.clone().enumerate() {
                let from = (first + at * window.stride[0]) * window.size[1] + start;
                let to = row * window.out[1] + columns.start;
                visit(kh * window.kernel[1] + kw, from, to, columns.len());
            }
        }
    }
}

/// Adds to `y`.
pub fn forward(sizes: &Sizes, x: &[f32], w: &[f32], y: &mut [f32]) {
    let (pixels, outs, stride, many) =
        (sizes.window.pixels(), sizes.window.outs(), sizes.window.stride[1], each(sizes));
    y.par_chunks_mut(outs).enumerate().for_each(|(at, y)| {
        let (image, output) = (at / sizes.outputs, at % sizes.outputs);
        let x = &x[(image * sizes.inputs + output / many) * pixels..][..pixels];
        let w = &w[output * taps(sizes)..][..taps(sizes)];
        lines(sizes, |tap, from, to, count| {
            let (y, weight) = (&mut y[to..to + count], w[tap]);
            match stride {
                1 => y.iter_mut().zip(&x[from..from + count]).for_each(|(y, x)| *y += weight * x),
                _ => y.iter_mut().zip(x[from..].iter().step_by(stride)).for_each(|(y, x)| *y += weight * x),
            }
        });
    });
}

/// Adds to `dx`.
pub fn backward_data(sizes: &Sizes, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (pixels, outs, stride, many) =
        (sizes.window.pixels(), sizes.window.outs(), sizes.window.stride[1], each(sizes));
    dx.par_chunks_mut(pixels).enumerate().for_each(|(at, dx)| {
        let (image, input) = (at / sizes.inputs, at % sizes.inputs);
        for output in input * many..(input + 1) * many {
            let dy = &dy[(image * sizes.outputs + output) * outs..][..outs];
            let w = &w[output * taps(sizes)..][..taps(sizes)];
            lines(sizes, |tap, from, to, count| {
                let (dy, weight) = (&dy[to..to + count], w[tap]);
                match stride {
                    1 => dx[from..from + count].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += weight * dy),
                    _ => dx[from..].iter_mut().step_by(stride).zip(dy).for_each(|(dx, dy)| *dx += weight * dy),
                }
            });
        }
    });
}

pub fn backward_weights(sizes: &Sizes, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (pixels, outs, stride, many) =
        (sizes.window.pixels(), sizes.window.outs(), sizes.window.stride[1], each(sizes));
    let (image, answer) = (sizes.inputs * pixels, sizes.outputs * outs);
    let part = |(x, dy): (&[f32], &[f32])| {
        let mut dw = vec![0.0_f32; sizes.outputs * taps(sizes)];
        for (x, dy) in x.chunks(image).zip(dy.chunks(answer)) {
            for (output, dy) in dy.chunks(outs).enumerate() {
                let x = &x[output / many * pixels..][..pixels];
                let dw = &mut dw[output * taps(sizes)..][..taps(sizes)];
                lines(sizes, |tap, from, to, count| {
                    let dy = &dy[to..to + count];
                    dw[tap] += match stride {
                        1 => dot(&x[from..from + count], dy),
                        _ => x[from..].iter().step_by(stride).zip(dy).map(|(x, dy)| x * dy).sum(),
                    };
                });
            }
        }
        dw
    };
    over_batch(sizes.batch, (x, image), (dy, answer), part)
}

/// In eight sums, which the compiler may keep in one vector.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0_f32; LANES];
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.0.iter().zip(b.0) {
        (0..LANES).for_each(|lane| sums[lane] += a[lane] * b[lane]);
    }
    sums.iter().sum::<f32>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f32>()
}
