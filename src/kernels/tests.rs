#![allow(unsafe_code, reason = "guard pages")]
//! One suite for every tier; what is right is said by sums in 64 bits and by `round.rs`, not by a kernel.
//!
//! A tier that this CPU lacks is reported as `tier NAME: this CPU lacks it`, one that passed as `tier NAME: ran`.

mod convolution;
mod depthwise;
mod f32;
mod floats;
mod guard;
mod loops;
mod products;
mod refusals;
mod threads;
mod vectors;
mod winograd;

use super::depthwise::{DepthwiseTier, depthwise_tier};
use super::gemm::Tier;
use super::*;

/// The whole suite for one tier.
macro_rules! conformance {
    ($name:ident, $isa:expr) => {
        #[test]
        fn $name() {
            conform($isa);
        }
    };
}

conformance!(tier_scalar, Isa::Scalar);
conformance!(tier_neon, Isa::Neon);
conformance!(tier_dotprod, Isa::Dotprod);
conformance!(tier_i8mm, Isa::I8mm);
conformance!(tier_avx2, Isa::Avx2);
conformance!(tier_avxvnni, Isa::AvxVnni);
conformance!(tier_avx512vnni, Isa::Avx512Vnni);

/// Kernels under test: what a tier is made of, and how it wants its bytes.
#[derive(Clone, Copy)]
struct Subject {
    name: &'static str,
    tier: &'static Tier,
    depthwise: &'static DepthwiseTier,
    storage: Storage,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.name, self.storage)
    }
}

fn conform(isa: Isa) {
    if !isa.is_available() {
        println!("tier {isa}: this CPU lacks it");
        return;
    }
    let (tier, depthwise) = (super::gemm::tier(isa).unwrap(), depthwise_tier(isa).unwrap());
    for storage in [Storage::S8, Storage::U8] {
        if isa.supports(storage) {
            suite(Subject { name: isa.name(), tier, depthwise, storage }, isa);
            loops::suite(isa, storage);
        }
    }
    println!("tier {isa}: ran");
}

fn suite(on: Subject, isa: Isa) {
    products::suite(on);
    depthwise::suite(on);
    vectors::suite(on, isa);
}

/// The code of the AVX-VNNI kernels in the other encoding of their instruction, which more CPUs have.
#[cfg(target_arch = "x86_64")]
#[test]
fn avxvnni_is_right_in_the_encoding_of_avx512() {
    if Isa::Avx512Vnni.is_available() {
        let (tier, depthwise) = (&avxvnni::TIER_EVEX, &depthwise_vnni::TIER_256_EVEX);
        suite(Subject { name: "avxvnni (EVEX)", tier, depthwise, storage: Storage::U8 }, Isa::Avx512Vnni);
    }
}

#[test]
fn the_best_tier_is_chosen_unless_another_is_wished() {
    assert_eq!(Isa::select(None), Ok(Isa::best()));
    assert_eq!(Isa::select(Some("scalar")), Ok(Isa::Scalar));
    let unknown = Isa::select(Some("sve")).unwrap_err().to_string();
    assert!(unknown.contains("\"sve\"") && unknown.contains("dotprod"), "{unknown}");
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse(), Ok(isa));
        if !isa.is_available() {
            let message = Isa::select(Some(isa.name())).unwrap_err().to_string();
            assert!(message.contains(isa.name()) && message.contains(Isa::best().name()), "{message}");
        }
    }
}

#[test]
fn a_grid_gives_each_value_away_once() {
    let mut data = vec![0_u8; 7 * 40];
    let grid = TileMut::new(&mut data[3..], 7, 40, 33).grid(2, 16);
    assert_eq!(grid.len(), 12);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(mut tile) = grid.take() {
                    for row in tile.rows() {
                        tile.row(row).iter_mut().for_each(|value| *value += 1);
                    }
                }
            });
        }
    });
    assert!(grid.take().is_none());
    let ones = (0..7 * 40).filter(|i| data[*i] == 1).count();
    assert_eq!((ones, data.iter().map(|v| usize::from(*v)).sum()), (7 * 33, 7 * 33));
}

#[test]
fn half_goes_to_even_before_the_zero_point_is_added() {
    let halves = [(1, 0), (3, 2), (5, 2), (-1, 0), (-3, -2), (-5, -2), (253, 126), (254, 127), (-257, -128)];
    for (acc, wanted) in halves {
        assert_eq!(requantize(acc, 0.5, 0, -128, 127), wanted, "{acc} / 2");
        assert_eq!(requantize(acc, 0.5, 1, -128, 127), wanted.saturating_add(1), "{acc} / 2 + 1");
    }
    assert_eq!(requantize(i32::MAX, 1e30, -128, -128, 127), 127);
    assert_eq!(requantize(i32::MIN, 1e30, 127, -128, 127), -128);
    assert_eq!(requantize(100, 1.0, 0, 3, 50), 50);
    // f32 has 24 bits: 2^24 + 1 becomes 2^24, and a little more than a half becomes a half.
    assert_eq!(requantize((1 << 24) + 1, (-25_f32).exp2(), 0, -128, 127), 0);
    assert_eq!(requantize((1 << 24) + 2, (-25_f32).exp2(), 0, -128, 127), 1);
}

#[test]
fn the_nearest_byte_is_that_of_rint() {
    for i in -70_000..70_000_i32 {
        for number in [i as f32 / 256.0, i as f32 / 3.0, i as f32 * 0.5] {
            let wanted = number.round_ties_even() as i32 as u8;
            assert_eq!(round::nearest_byte(number), wanted, "{number}");
        }
    }
}

/// Threads share operators and hand tiles to each other.
#[test]
fn operators_go_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<(Gemm, Depthwise, Add, Mul, MaxPool, AveragePool, Convert, Indirection, Grid<'_, u8>)>();
    sent::<TileMut<'_, f32>>();
}

/// Deterministic values: a linear congruential generator's upper bits.
#[derive(Debug)]
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    /// Often an extreme.
    fn value(&mut self) -> i8 {
        match self.below(8) {
            0 => -128,
            1 => 127,
            2 => -127,
            _ => self.next() as i8,
        }
    }

    fn values(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| self.value()).collect()
    }
}

fn stored(storage: Storage, values: &[i8]) -> Vec<u8> {
    values.iter().map(|&value| storage.byte(value)).collect()
}

/// All 65,536 pairs of values.
fn pairs(storage: Storage) -> (Vec<u8>, Vec<u8>) {
    let values: Vec<i8> = (-128..=127).collect();
    let a: Vec<i8> = values.iter().flat_map(|&value| [value; 256]).collect();
    (stored(storage, &a), stored(storage, &values.repeat(256)))
}
