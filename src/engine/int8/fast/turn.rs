//! Matrices whose rows and columns are exchanged, many of them at regular distances: what most transpositions are.

use crate::kernels::{part, part_of_floats};

/// An axis of the outermost ones: how often, and how far both sides move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    count: usize,
    from: usize,
    to: usize,
}

/// Of each matrix `to[c][r] = from[r][c]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    outer: Vec<Axis>,
    rows: usize,
    columns: usize,
    /// From one row of either to the next.
    strides: [usize; 2],
}

impl Turn {
    /// What so many matrices that lie one behind the other are, transposed.
    pub fn of_matrices(count: usize, rows: usize, columns: usize) -> Self {
        let size = rows * columns;
        Self { outer: vec![Axis { count, from: size, to: size }], rows, columns, strides: [columns, rows] }
    }

    /// Where by place of the output its element comes from; `None` where that is no turn, or one of few rows or columns.
    pub fn find(places: &[u32]) -> Option<Self> {
        let mut axes = axes(places)?;
        // The axis along which the input goes on is the matrix's columns; the output goes on along its rows.
        let inner = (!axes.is_empty()).then(|| axes.remove(0))?;
        let across = axes.iter().position(|axis| axis.from == 1)?;
        let across = axes.remove(across);
        let (rows, columns) = (inner.count, across.count);
        // Two rows are worth it where they fill the output by turns, as in a shuffle of channels.
        let worth = inner.from > 1 && columns >= 4 && (rows >= 4 || (rows == 2 && across.to == 2));
        worth.then_some(Self { outer: axes, rows, columns, strides: [inner.from, across.to] })
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.outer[..])
    }

    /// Calls with where each matrix begins on both sides.
    fn each(&self, mut of: impl FnMut(usize, usize)) {
        let count: usize = self.outer.iter().map(|axis| axis.count).product();
        for matrix in 0..count {
            let (mut rest, mut from, mut to) = (matrix, 0, 0);
            for axis in &self.outer {
                let at = rest % axis.count;
                rest /= axis.count;
                (from, to) = (from + at * axis.from, to + at * axis.to);
            }
            of(from, to);
        }
    }

    pub fn run_bytes(&self, from: &[u8], output: &mut [u8]) {
        let size = [self.rows, self.columns];
        self.each(|start, to| part(&from[start..], size, self.strides, &mut output[to..], 0));
    }

    pub fn run_floats(&self, from: &[f32], output: &mut [f32]) {
        let size = [self.rows, self.columns];
        self.each(|start, to| part_of_floats(&from[start..], size, self.strides, &mut output[to..]));
    }
}

/// Nested loops that go through these places, innermost first, if there are few and they begin at 0.
fn axes(places: &[u32]) -> Option<Vec<Axis>> {
    let at = |index: usize| places.get(index).map(|&place| place as usize);
    let mut axes: Vec<Axis> = Vec::new();
    let mut block = 1;
    while block < places.len() {
        let stride = at(block)?.checked_sub(at(0)?)?;
        let mut count = 1;
        while (count + 1) * block <= places.len() && at(count * block)? == at(0)? + count * stride {
            count += 1;
        }
        if !places.len().is_multiple_of(block * count) || axes.len() == 6 {
            return None;
        }
        axes.push(Axis { count, from: stride, to: block });
        block *= count;
    }
    let place = |mut index: usize| {
        let mut place = 0;
        for axis in &axes {
            place += index % axis.count * axis.from;
            index /= axis.count;
        }
        place
    };
    (0..places.len()).all(|index| at(index) == Some(place(index))).then_some(axes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By place of the output, with axes `order` of that shape.
    fn transposed(shape: &[usize], order: &[usize]) -> Vec<u32> {
        let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
        let count: usize = shape.iter().product();
        let place = |mut index: usize| {
            let mut place = 0;
            for &axis in order.iter().rev() {
                place += index % shape[axis] * stride(axis);
                index /= shape[axis];
            }
            place as u32
        };
        (0..count).map(place).collect()
    }

    #[test]
    fn turns_are_found_and_move_what_places_say() {
        let cases: [(&[usize], &[usize]); 9] = [
            (&[3, 2, 21], &[0, 2, 1]),
            (&[2, 3, 2, 19], &[0, 1, 3, 2]),
            (&[5, 4, 33], &[0, 2, 1]),
            (&[5, 7], &[1, 0]),
            (&[2, 3, 20, 33], &[0, 1, 3, 2]),
            (&[2, 17, 4, 9], &[0, 2, 3, 1]),
            (&[2, 9, 4, 17], &[0, 3, 1, 2]),
            (&[4, 5, 6, 7], &[3, 2, 1, 0]),
            (&[1, 8, 8, 16], &[0, 3, 1, 2]),
        ];
        for (shape, order) in cases {
            let places = transposed(shape, order);
            let turn = Turn::find(&places).unwrap();
            let from: Vec<f32> = (0..places.len()).map(|i| i as f32).collect();
            let mut to = vec![-1.0; from.len()];
            turn.run_floats(&from, &mut to);
            assert!(to.iter().zip(&places).all(|(&x, &place)| x == place as f32), "{shape:?} by {order:?}");
            let from: Vec<u8> = (0..places.len()).map(|i| (i * 7 % 251) as u8).collect();
            let mut to = vec![0; from.len()];
            turn.run_bytes(&from, &mut to);
            assert!(to.iter().zip(&places).all(|(&x, &place)| x == from[place as usize]), "{shape:?} by {order:?}");
        }
    }

    #[test]
    fn what_is_no_turn_is_none() {
        for places in [vec![], vec![0], (0..100).collect(), vec![3, 1, 2, 0], vec![0; 64], vec![u32::MAX; 64]] {
            assert_eq!(Turn::find(&places), None, "{places:?}");
        }
        let mut almost = transposed(&[8, 9], &[1, 0]);
        almost.swap(40, 41);
        assert_eq!(Turn::find(&almost), None);
    }
}
