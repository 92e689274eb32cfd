//! Matrices of bytes with rows and columns exchanged, eight by eight in registers: NCHW to NHWC and back.

/// Bytes of 8 by 8, each row a word whose first byte is its lowest: exchanges halves, then quarters, then bytes.
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

/// `to[c][r] = from[r][c] ^ flip`.
///
/// # Panics
/// If either is not `rows` times `columns` long.
pub fn transpose(from: &[u8], rows: usize, columns: usize, to: &mut [u8], flip: u8) {
    assert!(from.len() == rows * columns && to.len() == from.len(), "{rows} rows of {columns}");
    let all = u64::from(flip) * 0x0101_0101_0101_0101;
    let (whole_rows, whole_columns) = (rows / 8 * 8, columns / 8 * 8);
    for r in (0..whole_rows).step_by(8) {
        for c in (0..whole_columns).step_by(8) {
            let row = |i: usize| from[(r + i) * columns + c..].first_chunk().copied().unwrap_or_default();
            let turned = transpose_8x8(std::array::from_fn(|i| u64::from_le_bytes(row(i))));
            for (i, word) in turned.into_iter().enumerate() {
                to[(c + i) * rows + r..][..8].copy_from_slice(&(word ^ all).to_le_bytes());
            }
        }
    }
    let mut one = |r: usize, c: usize| to[c * rows + r] = from[r * columns + c] ^ flip;
    for r in 0..rows {
        let first = if r < whole_rows { whole_columns } else { 0 };
        (first..columns).for_each(|c| one(r, c));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for rows in 0..20 {
            for columns in 0..20 {
                let from: Vec<u8> = (0..rows * columns).map(|i| (i * 7) as u8).collect();
                let mut to = vec![0; from.len()];
                transpose(&from, rows, columns, &mut to, 0x80);
                for (i, &byte) in from.iter().enumerate() {
                    assert_eq!(to[i % columns * rows + i / columns], byte ^ 0x80, "{rows} by {columns}");
                }
            }
        }
    }
}
