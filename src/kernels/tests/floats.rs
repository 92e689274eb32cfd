//! Products of floats: the sums of one fused multiplication and addition after another, to the bit.

use super::guard::Guarded;
use super::*;

const NEVER: f32 = -7.25;

/// Every M up to 9 and N up to 70 with short sums, and sums around the length of a block.
fn shapes() -> impl Iterator<Item = [usize; 3]> {
    let small = (1..=9).flat_map(|m| (1..=70).map(move |n| [m, n, 1 + (m * 7 + n) % 11]));
    let deep = [127, 128, 129, 256, 300].into_iter().flat_map(|k| [[1, 40, k], [9, 33, k], [17, 8, k]]);
    small.chain(deep).chain([[3, 5, 0]])
}

pub fn values(rng: &mut Lcg, count: usize) -> Vec<f32> {
    (0..count).map(|_| (rng.next() % 2_001) as f32 / 333.0 - 3.0).collect()
}

/// Memory whose end is where a page without access begins.
pub fn guarded(values: &[f32]) -> Guarded {
    Guarded::new(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

pub fn floats(memory: &Guarded) -> &[f32] {
    words::floats(memory.bytes()).unwrap_or_default()
}

/// Runs in tiles with a column of the output's memory left over.
fn run(m: usize, n: usize, steps: [usize; 2], one: impl Fn(&mut TileMut<'_, f32>)) -> Vec<f32> {
    let mut output = vec![NEVER; m * (n + 1)];
    let grid = TileMut::new(&mut output, m, n + 1, n).grid(steps[0], steps[1]);
    while let Some(mut tile) = grid.take() {
        one(&mut tile);
    }
    output
}

fn assert_bits(what: &str, n: usize, found: &[f32], wanted: impl Fn(usize, usize) -> f32) {
    for (i, value) in found.iter().enumerate() {
        let (row, column) = (i / (n + 1), i % (n + 1));
        let wanted = if column == n { NEVER } else { wanted(row, column) };
        assert!(value.to_bits() == wanted.to_bits(), "{what}: {row}, {column} is {value}, not {wanted}");
    }
}

#[test]
fn products_of_floats_add_in_the_order_of_k_on_all_tiers() {
    let mut rng = Lcg(5);
    for [m, n, k] in shapes() {
        let (a, b) = (values(&mut rng, m * k), values(&mut rng, k * n));
        let (left, right) = (guarded(&a), guarded(&b));
        let wanted =
            |row: usize, column: usize| (0..k).fold(0.0_f32, |sum, i| a[row * k + i].mul_add(b[i * n + column], sum));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let product = FloatProduct::new(isa, [k, n]).unwrap();
            let found = run(m, n, product.steps(), |tile| product.run(floats(&left), floats(&right), tile));
            assert_bits(&format!("{isa} {m}x{k}x{n}"), n, &found, wanted);
            // Wherever tiles begin.
            let found = run(m, n, [2, 5], |tile| product.run(floats(&left), floats(&right), tile));
            assert_bits(&format!("{isa} {m}x{k}x{n} in small tiles"), n, &found, wanted);
        }
    }
}
