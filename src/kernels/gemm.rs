#![allow(unsafe_code, reason = "calls microkernels by pointers whose reach is checked here")]
//! Matrix products and convolutions: rows of int8 pixels times packed weights, requantized in registers.
//!
//! Invariant: before a microkernel runs, every byte that it may read or write was found to be inside of a slice.
//! One product serves 1x1 convolutions of stride 1 (rows lie one after another), other convolutions (rows by
//! [`Indirection`]), fully connected layers (one row) and products of activations (packed at run time).
//! Not here: in which order a tile is covered.

use super::elementwise::look_up_in_place;
use super::here::Here;
use super::indirect::{Indirection, PADDING};
use super::isa::Isa;
use super::pack::{Pack, PackError, Packed, Requant, WeightView};
use super::reach::{converts, fits_words};
use super::round::requantize;
use super::scalar;
use super::shared::SharedWeights;
use super::storage::Storage;
use super::tile::TileMut;
use super::walk::{Step, Walk};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512vnni, avxvnni};
#[cfg(target_arch = "aarch64")]
use super::{dotprod, i8mm, neon};

/// Rows in a call that keeps its accumulators, or begins with other values than the bias.
pub(super) const MAX_ROWS: usize = 24;
/// Rows in a call before a table, so that they are still in the first-level cache.
const TABLE_ROWS: usize = 96;
/// Columns in a call.
pub(super) const MAX_COLUMNS: usize = 64;

/// One call of a microkernel. Its contract: `rows`, `taps` and `groups` are not 0; `columns` is at most the tier's strips times NR;
/// `offsets` has `rows * taps` entries, each [`PADDING`] or an offset behind which `input` has `groups * KR` readable
/// bytes, as `padding` has if any entry is PADDING, or else it is null, `taps` is 1, and rows begin at multiples of
/// `input_stride`; `weights` points to the strips,
/// `strip_bytes` apart; `init` and `multipliers` hold a value for each column of these strips, `init` again after
/// `init_stride` for every row; `output` is writable for `columns` bytes at each row, `row_stride` apart, or else
/// `accumulators` for `rows` rows of MAX_COLUMNS, or else `floats` as it says.
/// Kernels take the first of their rows in addition; it and those that follow are the call's.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub rows: usize,
    pub columns: usize,
    pub input: *const u8,
    pub padding: *const u8,
    pub offsets: *const u32,
    pub input_stride: usize,
    pub taps: usize,
    pub groups: usize,
    pub weights: *const i8,
    pub strip_bytes: usize,
    pub init: *const i32,
    pub init_stride: usize,
    pub multipliers: *const f32,
    pub finish: &'a Finish,
    pub output: *mut u8,
    pub row_stride: usize,
    /// Null unless the accumulators themselves are wanted.
    pub accumulators: *mut i32,
    /// Only for tiers that settle.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no tier settles"))]
    pub floats: Option<&'a Floats>,
}

/// Accumulators as floats: see [`settle`](super::float::settle). `output` is writable for the call's columns at each row,
/// `row_stride` values apart; `bias` is null or holds a value for each column.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no tier settles"))]
pub(super) struct Floats {
    pub output: *mut f32,
    pub row_stride: usize,
    pub scale: f32,
    pub bias: *const f32,
    pub bounds: [f32; 2],
}

/// Where a call puts what it makes.
#[derive(Debug, Clone, Copy)]
pub(super) enum To<'a> {
    /// Rows so many bytes apart.
    Bytes(*mut u8, usize),
    Accumulators(*mut i32),
    Floats(&'a Floats),
}

/// The constants of a requantization. Tiers clamp bytes: rounding is monotone, so that this is the same as before it.
/// Conversions to integers stay in range, for kernels requantize only where [`converts`] holds.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    /// The zero point as stored.
    pub zero_point: i16,
    /// Bounds as stored.
    pub lo: u8,
    pub hi: u8,
    /// Results are far from leaving 16 bits, and bounds are those of a byte.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "for kernels that gain by it"))]
    pub plain: bool,
    requant: [i8; 3],
    storage: Storage,
}

impl Finish {
    /// Whether results [fit into words](super::reach::fits_words) is the caller's to say.
    pub(super) fn new(requant: &Requant<'_>, storage: Storage, fits_words: bool) -> Self {
        let Requant { zero_point, lo, hi, .. } = *requant;
        Self {
            plain: fits_words && (lo, hi) == (i8::MIN, i8::MAX),
            zero_point: i16::from(zero_point) + storage.offset() as i16,
            lo: storage.byte(lo),
            hi: storage.byte(hi),
            requant: [zero_point, lo, hi],
            storage,
        }
    }

    /// One value, by the reference.
    pub(super) fn byte(&self, acc: i32, multiplier: f32) -> u8 {
        let [zero_point, lo, hi] = self.requant;
        self.storage.byte(requantize(acc, multiplier, zero_point, lo, hi))
    }
}

impl Call<'_> {
    /// Where a tap of a row begins.
    ///
    /// # Safety
    /// The contract; `row` and `tap` below `rows` and `taps`.
    #[inline(always)]
    pub(super) unsafe fn pixel(&self, row: usize, tap: usize) -> *const u8 {
        // SAFETY: one offset for every row and tap, each PADDING or inside of the input; or all rows are inside of it.
        unsafe {
            if self.offsets.is_null() {
                return self.input.add(row * self.input_stride);
            }
            match *self.offsets.add(row * self.taps + tap) {
                PADDING => self.padding,
                offset => self.input.add(offset as usize),
            }
        }
    }

    /// Stores one accumulator the slow way.
    ///
    /// # Safety
    /// The contract; `row` and `column` below `rows` and `columns`.
    pub(super) unsafe fn put(&self, row: usize, column: usize, acc: i32) {
        // SAFETY: by the contract, every row and column has its multiplier and its place.
        unsafe {
            if self.accumulators.is_null() {
                let byte = self.finish.byte(acc, *self.multipliers.add(column));
                *self.output.add(row * self.row_stride + column) = byte;
            } else {
                *self.accumulators.add(row * MAX_COLUMNS + column) = acc;
            }
        }
    }
}

/// A tier's microkernels for products.
#[derive(Debug)]
pub(super) struct Tier {
    pub pack: Pack,
    /// Most strips in a call.
    pub strips: usize,
    /// Rows in a full tile of registers, at most strips.
    pub rows: usize,
    pub gemm: Microkernel,
    /// Makes floats of accumulators, too.
    pub settles: bool,
    /// For weights that two −128 stand side by side in, where `gemm` would overflow.
    pub gemm_paired_minimum: Option<Microkernel>,
}

/// Covers the rows of a call by kernels for so many rows, the largest first and the last for one.
macro_rules! by_rows {
    ($call:ident, $row:ident, $($rows:literal => $kernel:expr),+ $(,)?) => {
        let mut $row = 0;
        while $row < $call.rows {
            let left = $call.rows - $row;
            $(
                if left >= $rows {
                    // SAFETY: the contract of the call; so many of its rows are left.
                    unsafe { $kernel };
                    $row += $rows;
                    continue;
                }
            )+
        }
    };
}

pub(super) use by_rows;

/// Callers keep the contract of [`Call`], on a CPU that has the tier's instructions.
pub(super) type Microkernel = unsafe fn(&Call<'_>, Storage);

/// None where the tier is another architecture's.
pub(super) fn tier(isa: Isa) -> Option<&'static Tier> {
    match isa {
        Isa::Scalar => Some(&scalar::TIER),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Some(&neon::TIER),
        #[cfg(target_arch = "aarch64")]
        Isa::Dotprod => Some(&dotprod::TIER),
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm => Some(&i8mm::TIER),
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon | Isa::Dotprod | Isa::I8mm => None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(&avx2::TIER),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => Some(&avxvnni::TIER),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Some(&avx512vnni::TIER),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => None,
    }
}

/// What a product is made of. All zero points are of the signed domain (see [`Storage`]).
#[derive(Debug, Clone, Copy)]
pub struct GemmSpec<'a> {
    pub weights: WeightView<'a>,
    /// None, one, or one for each output channel.
    pub weight_zero_points: &'a [i8],
    /// None or one for each output channel, at the scale of the accumulator.
    pub bias: &'a [i32],
    pub input_zero_point: i8,
    pub requant: Requant<'a>,
}

/// Where the rows of the left side lie.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// So many bytes apart.
    Direct { stride: usize },
    /// Where the map says; `padding` holds K bytes of the input's zero point as stored, and [`SLACK`](super::SLACK).
    Indirect { map: &'a Indirection, padding: &'a [u8] },
}

/// The left side of a product, stored as the product was made for.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub data: &'a [u8],
    pub rows: Rows<'a>,
}

/// A product with constant right side, ready to run.
#[derive(Debug, Clone)]
pub struct Gemm {
    pub(super) tier: &'static Tier,
    pub(super) storage: Storage,
    pub(super) packed: Packed,
    pub(super) input_zero_point: i8,
    pub(super) finish: Finish,
    pub(super) table: Option<Box<[u8; 256]>>,
    pub(super) here: Here,
    /// Any right side of the same shape keeps sums within 31 bits.
    of_activations: bool,
}

impl Gemm {
    /// # Errors
    /// If lengths disagree, sums may leave 31 bits, or this CPU lacks `isa`.
    pub fn new(isa: Isa, storage: Storage, spec: &GemmSpec<'_>) -> Result<Self, PackError> {
        let tier = Self::tier(isa, storage)?;
        Ok(Self { here: Here::new(isa, storage)?, ..Self::with_tier(tier, storage, spec)? })
    }

    fn tier(isa: Isa, storage: Storage) -> Result<&'static Tier, PackError> {
        let runs = isa.is_available() && isa.supports(storage);
        tier(isa).filter(|_| runs).ok_or(PackError::Isa { isa })
    }

    /// The CPU must have the tier's instructions.
    pub(super) fn with_tier(tier: &'static Tier, storage: Storage, spec: &GemmSpec<'_>) -> Result<Self, PackError> {
        spec.requant.check()?;
        let zero_point = i32::from(spec.input_zero_point) + storage.offset();
        let multipliers = spec.requant.multipliers;
        let packed =
            Packed::new(tier.pack, &spec.weights, spec.weight_zero_points, spec.bias, multipliers, zero_point)?;
        Ok(Self {
            tier,
            storage,
            input_zero_point: spec.input_zero_point,
            finish: Finish::new(&spec.requant, storage, packed.fits_words),
            packed,
            table: spec.requant.table.map(|table| Box::new(*table)),
            here: Here::plain(storage),
            of_activations: false,
        })
    }

    /// A product of two activations: `k` by `n` values on the right side, given by [`repack`](Self::repack) before each
    /// run, with one zero point. Until then they are zeros.
    ///
    /// # Errors
    /// If sums of any `k` products may leave 31 bits, or this CPU lacks `isa`.
    pub fn of_activations(
        isa: Isa,
        storage: Storage,
        [k, n]: [usize; 2],
        zero_points: [i8; 2],
        requant: &Requant<'_>,
    ) -> Result<Self, PackError> {
        let made = Self::of_activations_on(Self::tier(isa, storage)?, storage, [k, n], zero_points, requant)?;
        Ok(Self { here: Here::new(isa, storage)?, ..made })
    }

    /// The CPU must have the tier's instructions.
    pub(super) fn of_activations_on(
        tier: &'static Tier,
        storage: Storage,
        [k, n]: [usize; 2],
        zero_points: [i8; 2],
        requant: &Requant<'_>,
    ) -> Result<Self, PackError> {
        let reach = (k as i64).saturating_mul(255 * 255);
        if reach > i64::from(i32::MAX) {
            return Err(PackError::Overflow { channel: 0, reach });
        }
        let nothing = WeightView::ohwi(&[], n, 1, 0)?;
        let [input_zero_point, right] = zero_points;
        let spec =
            GemmSpec { weights: nothing, weight_zero_points: &[], bias: &[], input_zero_point, requant: *requant };
        let mut made = Self::with_tier(tier, storage, &spec)?;
        let multipliers = made.packed.multipliers.clone();
        made.packed = Packed::blank(made.tier.pack, [n, 1, k], right == 0);
        made.packed.converts = converts(&vec![reach; n], &multipliers);
        made.finish = Finish::new(requant, storage, fits_words(&vec![reach; n], &multipliers));
        made.packed.multipliers = multipliers;
        made.packed.zero_points.fill(i32::from(right));
        made.of_activations = true;
        Ok(made)
    }

    /// Takes a new right side, of the same shape. Allocates nothing.
    ///
    /// # Panics
    /// If this product was not made by [`of_activations`](Self::of_activations), or the shape is another.
    pub fn repack(&mut self, right: &WeightView<'_>) {
        assert!(self.of_activations, "weights of a model do not change");
        assert_eq!(right.shape(), [self.packed.n, 1, self.packed.k], "output channels, taps, input channels");
        let zero = self.packed.zero_points.first().map_or(0, |&zero| zero as i8);
        let zero_point = i32::from(self.input_zero_point) + self.storage.offset();
        if right.is_by_rows() {
            self.packed.fill_rows(self.tier.pack, right, zero, zero_point);
        } else {
            self.packed.fill(self.tier.pack, right, &[zero], &[], zero_point);
        }
    }

    /// Has its packed weights in common with those that are equal.
    pub fn share(&mut self, with: &SharedWeights) {
        with.join(&mut self.packed.weights);
    }

    /// Memory that it keeps, packed weights above all.
    pub fn bytes(&self) -> usize {
        let packed = &self.packed;
        let columns = packed.bias.len() + packed.sums.len() + packed.multipliers.len() + packed.zero_points.len();
        packed.weights.bytes() + columns * 4
    }

    /// Output tiles should begin at multiples of this many columns; they must at multiples of a strip, which divides it.
    pub fn column_step(&self) -> usize {
        self.tier.pack.nr * self.tier.strips
    }

    /// Output tiles should begin at multiples of this many rows.
    pub fn row_step(&self) -> usize {
        self.tier.rows
    }

    /// Bytes that are read of every row (or of every tap's pixel): K in whole steps of the kernel.
    pub fn row_reach(&self) -> usize {
        self.packed.groups * self.tier.pack.kr
    }

    /// Computes one tile of requantized output.
    ///
    /// # Panics
    /// If the input is too short for the tile, or the tile begins inside of a strip or ends behind the last channel.
    pub fn run(&self, source: &Source<'_>, output: &mut TileMut<'_, u8>) {
        let (rows, columns, row_stride) = (output.rows(), output.columns(), output.row_stride());
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        if !self.packed.converts {
            return self.run_slowly(source, output);
        }
        let last = output.pointer(rows.end - 1, columns.end - 1);
        debug_assert!(!last.is_null());
        let most = if self.table.is_some() { TABLE_ROWS } else { usize::MAX };
        let mut walk = Walk::new(self, source, rows.clone(), columns.clone(), most);
        while let Some(step) = walk.next_step() {
            let to = output.pointer(step.row, step.column);
            // SAFETY: the walk stays in rows and columns of the tile, whose corners are in its slice.
            unsafe { self.call(&mut walk, &step, To::Bytes(to, row_stride)) };
            if let Some(table) = &self.table {
                let (rows, columns) = (step.row..step.row + step.rows, step.column..step.column + step.columns);
                output.pieces(rows, columns, |values| look_up_in_place(table, values));
            }
        }
    }

    /// # Safety
    /// `step` is of `walk`; what it writes to is as [`Call`] wants it.
    pub(super) unsafe fn call(&self, walk: &mut Walk<'_>, step: &Step, to: To<'_>) {
        let tier = self.tier;
        let packed = &self.packed;
        let (first, input_stride, padding, offsets) = match walk.source.rows {
            Rows::Direct { stride } => (step.row * stride, stride, std::ptr::null(), std::ptr::null()),
            Rows::Indirect { map, padding } => (0, 0, padding.as_ptr(), map.offsets[step.row * packed.taps..].as_ptr()),
        };
        let corrected = walk.corrects();
        if corrected {
            walk.correct(step);
        }
        let strip = step.column / tier.pack.nr;
        let (no_bytes, no_sums) = (std::ptr::null_mut::<u8>(), std::ptr::null_mut::<i32>());
        let (output, row_stride, accumulators, floats) = match to {
            To::Bytes(output, stride) => (output, stride, no_sums, None),
            To::Accumulators(accumulators) => (no_bytes, 0, accumulators, None),
            To::Floats(floats) => (no_bytes, 0, no_sums, Some(floats)),
        };
        let call = Call {
            rows: step.rows,
            columns: step.columns,
            input: walk.source.data[first..].as_ptr(),
            input_stride,
            padding,
            offsets,
            taps: packed.taps,
            groups: packed.groups,
            // SAFETY: `step.column` is below N, so that its strip is in the packed weights.
            weights: unsafe { packed.weights.as_ptr().add(strip * packed.strip_bytes) },
            strip_bytes: packed.strip_bytes,
            init: if corrected { walk.init.as_ptr() } else { packed.bias[step.column..].as_ptr() },
            init_stride: if walk.corrects_by_row() { MAX_COLUMNS } else { 0 },
            multipliers: packed.multipliers[step.column..].as_ptr(),
            finish: &self.finish,
            output,
            row_stride,
            accumulators,
            floats,
        };
        let kernel = tier.gemm_paired_minimum.filter(|_| packed.has_paired_minimum).unwrap_or(tier.gemm);
        // SAFETY: `Walk::new` checked what the offsets reach; `Gemm::new` found the tier's instructions on this CPU.
        unsafe { kernel(&call, self.storage) }
    }
}
