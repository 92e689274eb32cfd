//! Matrices of bytes with rows and columns exchanged, eight by eight in registers: NCHW to NHWC and back.

/// Bytes of 8 by 8, each row a word whose first byte is its lowest: exchanges halves, then quarters, then bytes.
#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
fn transpose_8x8(mut rows: [u64; 8]) -> [u64; 8] {
    const MASKS: [u64; 3] = [0x0000_0000_FFFF_FFFF, 0x0000_FFFF_0000_FFFF, 0x00FF_00FF_00FF_00FF];
    let mut distance = 4;
    for mask in MASKS {
        let bits = distance * 8;
        for i in (0..8).filter(|i| i & distance == 0) {
            let (a, b) = (rows[i], rows[i + distance]);
            rows[i] = (a & mask) | ((b & mask) << bits);
            rows[i + distance] = ((a >> bits) & mask) | (b & !mask);
        }
        distance /= 2;
    }
    rows
}

/// Panics unless both sides are as long as these rows and columns need.
pub(super) fn check([rows, columns]: [usize; 2], strides: [usize; 2], lengths: [usize; 2]) {
    if rows > 0 && columns > 0 {
        assert!((rows - 1) * strides[0] + columns <= lengths[0], "{rows} rows of {columns}: {} bytes", lengths[0]);
        assert!((columns - 1) * strides[1] + rows <= lengths[1], "{columns} rows of {rows}: {} bytes", lengths[1]);
    }
}

/// `to[c][r] = from[r][c] ^ flip` where rows and columns are multiples of eight.
#[cfg(not(target_arch = "aarch64"))]
fn whole_blocks(from: &[u8], [rows, columns]: [usize; 2], strides: [usize; 2], to: &mut [u8], flip: u8) {
    check([rows, columns], strides, [from.len(), to.len()]);
    let all = u64::from(flip) * 0x0101_0101_0101_0101;
    for r in (0..rows).step_by(8) {
        for c in (0..columns).step_by(8) {
            let row = |i: usize| from[(r + i) * strides[0] + c..].first_chunk().copied().unwrap_or_default();
            let turned = transpose_8x8(std::array::from_fn(|i| u64::from_le_bytes(row(i))));
            for (i, word) in turned.into_iter().enumerate() {
                to[(c + i) * strides[1] + r..][..8].copy_from_slice(&(word ^ all).to_le_bytes());
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
use super::transpose_neon::whole_blocks;

/// Two or four rows that fill the output by turns, in loops that compilers make of vectors; three gain nothing so. Whether
/// that is what was asked for.
fn takes_turns<T: Copy>(
    from: &[T],
    [rows, columns]: [usize; 2],
    strides: [usize; 2],
    to: &mut [T],
    of: impl Fn(T) -> T,
) -> bool {
    if strides[1] != rows {
        return false;
    }
    match rows {
        2 => interleave::<T, 2>(from, columns, strides[0], to, of),
        4 => interleave::<T, 4>(from, columns, strides[0], to, of),
        _ => return false,
    }
    true
}

fn interleave<T: Copy, const ROWS: usize>(
    from: &[T],
    columns: usize,
    stride: usize,
    to: &mut [T],
    of: impl Fn(T) -> T,
) {
    let rows: [&[T]; ROWS] = std::array::from_fn(|r| &from[r * stride..][..columns]);
    for (c, to) in to.as_chunks_mut::<ROWS>().0[..columns].iter_mut().enumerate() {
        *to = std::array::from_fn(|r| of(rows[r][c]));
    }
}

/// `to[c][r] = from[r][c] ^ flip`, of a part of a larger matrix: strides are from one row of either to the next.
///
/// # Panics
/// If either is too short.
pub fn part(from: &[u8], [rows, columns]: [usize; 2], strides: [usize; 2], to: &mut [u8], flip: u8) {
    if takes_turns(from, [rows, columns], strides, to, |value| value ^ flip) {
        return;
    }
    let (whole_rows, whole_columns) = (rows / 8 * 8, columns / 8 * 8);
    whole_blocks(from, [whole_rows, whole_columns], strides, to, flip);
    let mut one = |r: usize, c: usize| to[c * strides[1] + r] = from[r * strides[0] + c] ^ flip;
    for r in 0..rows {
        let first = if r < whole_rows { whole_columns } else { 0 };
        (first..columns).for_each(|c| one(r, c));
    }
}

/// As [`part`], of floats, whose bits stay as they are.
///
/// # Panics
/// If either is too short.
pub fn part_of_floats(from: &[f32], [rows, columns]: [usize; 2], strides: [usize; 2], to: &mut [f32]) {
    const SIDE: usize = 4;
    if takes_turns(from, [rows, columns], strides, to, |value| value) {
        return;
    }
    let (whole_rows, whole_columns) = (rows / SIDE * SIDE, columns / SIDE * SIDE);
    // Sixteen columns at a time: a cache line of each row.
    for first in (0..whole_columns).step_by(16) {
        for r in (0..whole_rows).step_by(SIDE) {
            for c in (first..whole_columns.min(first + 16)).step_by(SIDE) {
                let row = |i: usize| from[(r + i) * strides[0] + c..].first_chunk().copied().unwrap_or_default();
                let block: [[f32; SIDE]; SIDE] = std::array::from_fn(row);
                for i in 0..SIDE {
                    let line = [block[0][i], block[1][i], block[2][i], block[3][i]];
                    to[(c + i) * strides[1] + r..][..SIDE].copy_from_slice(&line);
                }
            }
        }
    }
    for r in 0..rows {
        let first = if r < whole_rows { whole_columns } else { 0 };
        (first..columns).for_each(|c| to[c * strides[1] + r] = from[r * strides[0] + c]);
    }
}

/// Pixels and channels of a block that is turned at once.
pub(super) const BLOCK: [usize; 2] = [64, 16];

/// Calls with the values of each channel in turn, some pixels at a time: the channel, the first pixel, its values.
///
/// # Panics
/// If there are not as many values.
pub fn by_channel(from: &[u8], pixels: usize, channels: usize, mut of: impl FnMut(usize, usize, &[u8])) {
    assert_eq!(from.len(), pixels * channels, "{pixels} pixels of {channels} channels");
    let mut block = [0; BLOCK[0] * BLOCK[1]];
    for pixel in (0..pixels).step_by(BLOCK[0]) {
        for channel in (0..channels).step_by(BLOCK[1]) {
            let (high, wide) = (BLOCK[0].min(pixels - pixel), BLOCK[1].min(channels - channel));
            part(&from[pixel * channels + channel..], [high, wide], [channels, BLOCK[0]], &mut block, 0);
            for (i, line) in block.chunks(BLOCK[0]).enumerate().take(wide) {
                of(channel + i, pixel, &line[..high]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_one_by_one() {
        for (pixels, channels) in [(1, 1), (3, 40), (64, 16), (65, 17), (130, 33)] {
            let from: Vec<u8> = (0..pixels * channels).map(|i| (i * 7 % 251) as u8).collect();
            let mut to = vec![0; from.len()];
            by_channel(&from, pixels, channels, |channel, pixel, values| {
                to[channel * pixels + pixel..][..values.len()].copy_from_slice(values);
            });
            let mut wanted = vec![0; from.len()];
            part(&from, [pixels, channels], [channels, pixels], &mut wanted, 0);
            assert_eq!(to, wanted, "{pixels} pixels of {channels} channels");
        }
    }

    #[test]
    #[should_panic(expected = "8 rows of 8: 70 bytes")]
    fn what_is_too_short_is_refused() {
        part(&[0; 8 * 9 - 2], [8, 8], [9, 8], &mut [0; 64], 0);
    }

    #[test]
    fn rows_become_columns() {
        for rows in 0..20 {
            for columns in 0..20 {
                let floats: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
                let mut turned = vec![0.0; floats.len()];
                part_of_floats(&floats, [rows, columns], [columns, rows], &mut turned);
                for (i, &value) in turned.iter().enumerate() {
                    assert_eq!(value, floats[i % rows * columns + i / rows], "{rows} by {columns}");
                }
                let from: Vec<u8> = (0..rows * columns).map(|i| (i * 7) as u8).collect();
                let mut to = vec![0; from.len()];
                part(&from, [rows, columns], [columns, rows], &mut to, 0x80);
                for (i, &byte) in from.iter().enumerate() {
                    assert_eq!(to[i % columns * rows + i / columns], byte ^ 0x80, "{rows} by {columns}");
                }
            }
        }
    }
}
