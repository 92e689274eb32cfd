//! Matrix products.

use super::elementwise::broadcast;
use super::{Args, Dim, Shape};

impl Args<'_> {
    /// Numpy's `matmul`: leading dimensions broadcast, a vector is a row on the left, a column on the right.
    pub(super) fn mat_mul(&self, left: usize, right: usize) -> Shape {
        let (a, b) = (self.shape(left)?, self.shape(right)?);
        let (rows, inner_a, lead_a) = match a {
            [inner] => (None, inner, &a[..0]),
            [lead @ .., rows, inner] => (Some(rows), inner, lead),
            [] => return None,
        };
        let (columns, inner_b, lead_b) = match b {
            [inner] => (None, inner, &b[..0]),
            [lead @ .., inner, columns] => (Some(columns), inner, lead),
            [] => return None,
        };
        if disagree(inner_a, inner_b) {
            return None;
        }
        let mut dims = broadcast(&[Some(lead_a), Some(lead_b)])?;
        dims.extend(rows.into_iter().chain(columns).cloned());
        Some(dims)
    }

    /// Two matrices, either transposed by attribute.
    pub(super) fn gemm(&self, left: usize, right: usize) -> Shape {
        let ([a, b], [c, d]) = (self.shape(left)?, self.shape(right)?) else { return None };
        let (rows, inner_a) = if self.flag("transA") { (b, a) } else { (a, b) };
        let (inner_b, columns) = if self.flag("transB") { (d, c) } else { (c, d) };
        (!disagree(inner_a, inner_b)).then(|| vec![rows.clone(), columns.clone()])
    }
}

fn disagree(a: &Dim, b: &Dim) -> bool {
    a.size().zip(b.size()).is_some_and(|(a, b)| a != b)
}
