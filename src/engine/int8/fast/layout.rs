//! Between NCHW and NHWC.

/// From `[N][C][pixels]` to `[N][pixels][C]`.
pub(super) fn to_nhwc<T: Copy>(from: &[T], shape: &[usize], to: &mut [T]) {
    let (channels, pixels) = (shape[1], shape[2] * shape[3]);
    turn(from, channels, pixels, to);
}

/// From `[N][pixels][C]` to `[N][C][pixels]`.
pub(super) fn to_nchw<T: Copy>(from: &[T], shape: &[usize], to: &mut [T]) {
    let (channels, pixels) = (shape[1], shape[2] * shape[3]);
    turn(from, pixels, channels, to);
}

/// Transposes matrices of so many rows and columns.
fn turn<T: Copy>(from: &[T], rows: usize, columns: usize, to: &mut [T]) {
    let size = (rows * columns).max(1);
    for (from, to) in from.chunks_exact(size).zip(to.chunks_exact_mut(size)) {
        for (row, line) in from.chunks_exact(columns).enumerate() {
            to[row..].iter_mut().step_by(rows).zip(line).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Where an axis of NCHW stands in NHWC.
pub(super) fn axis_nhwc(axis: usize) -> usize {
    [0, 3, 1, 2][axis]
}
