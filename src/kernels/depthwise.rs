#![allow(unsafe_code, reason = "calls microkernels by pointers whose reach is checked here")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Depthwise convolutions: each channel by its own window, of any kernel, stride and dilation.
//!
//! Invariant: before a microkernel runs, every byte that it may read or write was found to be inside of a slice.
//! Windows of 3x3 and of 5x5 take kernels of their own, which slide along a line so that a column is put in order once;
//! all others take the general one, which looks every tap up.
//! Channels with weights that leave eight bits, once their zero point is subtracted, run in the scalar tier, and so do
//! sums that leave 32 bits, once they are multiplied.
//! Not here: depth multipliers; repeat the input's channels, or use a [`Gemm`](super::Gemm) a group.

use std::ops::Range;

use super::depthwise_scalar;
use super::elementwise::look_up_in_place;
use super::gemm::Finish;
use super::indirect::{Indirection, PADDING};
use super::isa::Isa;
use super::numbers::Numbers;
use super::pack::{Lines, PackError, Requant, WeightView, check_multipliers, check_reach, fits, spread};
use super::reach::{converts, fits_words};
use super::storage::Storage;
use super::tile::TileMut;
#[cfg(target_arch = "x86_64")]
use super::{depthwise_avx2, depthwise_vnni};
#[cfg(target_arch = "aarch64")]
use super::{depthwise_dotprod, depthwise_neon};

/// How a tier wants its weights, for each block of 16 channels a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "no architecture has them all")]
pub(super) enum Grouping {
    /// `[tap][16]`, of 16 bits.
    Wide,
    /// `[tap][16]`.
    Single,
    /// `[2 taps][4 of 8 channels: 0.., then 4..][8 channels][4][2]`, of 16 bits.
    Pair,
    /// `[4 taps][4 of 16 channels: 0.., 4.., 8.., 12..][lane][4][4]`.
    Quad,
}

impl Grouping {
    /// Taps in a group.
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Wide | Self::Single => 1,
            Self::Pair => 2,
            Self::Quad => 4,
        }
    }

    const fn weight_bytes(self) -> usize {
        match self {
            Self::Wide | Self::Pair => 2,
            Self::Single | Self::Quad => 1,
        }
    }

    /// Where a weight stands in its group.
    fn place(self, lanes: usize, channel: usize, tap: usize) -> usize {
        match self {
            Self::Wide => channel * 2,
            Self::Single => channel,
            Self::Pair => channel % 8 / 4 * 32 + channel / 8 * 16 + channel % 4 * 4 + tap * 2,
            Self::Quad => self.accumulator(lanes, channel) * 4 + tap,
        }
    }

    /// Where a channel's accumulator stands in its block.
    fn accumulator(self, lanes: usize, channel: usize) -> usize {
        match self {
            Self::Wide | Self::Single => channel,
            Self::Pair => channel % 8 / 4 * 8 + channel / 8 * 4 + channel % 4,
            Self::Quad => (channel % 16 / 4 * lanes + channel / 16) * 4 + channel % 4,
        }
    }
}

/// A tier's kernels for depthwise convolutions.
#[derive(Debug)]
pub(super) struct DepthwiseTier {
    pub grouping: Grouping,
    /// Widths of blocks in 16 channels, largest first.
    pub lanes: &'static [usize],
    /// Any window, tap by tap.
    pub general: unsafe fn(&General<'_>, Storage),
    /// Windows of 3x3 along a line.
    pub line_3x3: Option<unsafe fn(&Line<'_>)>,
    /// Windows of 5x5 along a line.
    pub line_5x5: Option<unsafe fn(&Line<'_>)>,
    /// For weights of which two that meet in 16 bits are −128.
    pub paired_minimum: Option<unsafe fn(&General<'_>, Storage)>,
}

/// What kernels share. Their contract: `weights` points to `groups` groups of a block; `bias` and `multipliers` hold a
/// value for each of its channels, in its order of accumulators; `output` is writable for `channels` bytes at each of
/// `pixels` rows, `row_stride` apart, and `channels` is at most the block's width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "Arm's vectors have one width"))]
    pub lanes: usize,
    pub channels: usize,
    pub pixels: usize,
    pub groups: usize,
    pub weights: *const i8,
    pub bias: *const i32,
    pub multipliers: *const f32,
    pub finish: &'a Finish,
    pub output: *mut u8,
    pub row_stride: usize,
}

/// A general call: in addition, `slots` has a tap for each of the groups' taps; `offsets` has `taps` entries for each
/// pixel, PADDING or what `input` is readable behind for a block's width, as `padding` is.
#[derive(Debug)]
pub(super) struct General<'a> {
    pub block: Block<'a>,
    pub slots: *const u16,
    pub input: *const u8,
    pub padding: *const u8,
    pub offsets: *const u32,
    pub taps: usize,
}

impl General<'_> {
    /// Where the window's tap in a slot begins.
    ///
    /// # Safety
    /// The contract; `pixel` and `slot` are the call's.
    #[inline(always)]
    pub(super) unsafe fn pixel(&self, pixel: usize, slot: usize) -> *const u8 {
        // SAFETY: by the contract.
        unsafe {
            let tap = usize::from(*self.slots.add(slot));
            match *self.offsets.add(pixel * self.taps + tap) {
                PADDING => self.padding,
                offset => self.input.add(offset as usize),
            }
        }
    }
}

/// A call for windows along a line, which are as wide as they are high. In addition, the block's width is readable at
/// `rows[y] + x * steps[y]` for each column x below `width` that a window is in, and at `padding` if windows are in others.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub block: Block<'a>,
    /// Of the window; their columns 0.
    pub rows: [*const u8; MAX_SIDE],
    pub steps: [usize; MAX_SIDE],
    pub padding: *const u8,
    /// Where the first window begins: modulo the machine word, for it may be before column 0.
    pub first: usize,
    /// Of the image.
    pub width: usize,
    /// 1 or 2.
    pub stride: usize,
}

/// Rows and columns of the largest window that slides.
const MAX_SIDE: usize = 5;

impl<'a> Line<'a> {
    /// Nowhere as yet; `padding` begins at the block's channels.
    fn new(block: Block<'a>, map: &Indirection, padding: *const u8) -> Self {
        let g = map.geometry();
        let (rows, steps) = ([padding; MAX_SIDE], [0; MAX_SIDE]);
        Self { block, rows, steps, padding, first: 0, width: g.input[1], stride: g.stride[1] }
    }

    /// To the windows from one output pixel on; `data` begins at the block's channels.
    fn go_to(&mut self, map: &Indirection, pixel: usize, data: *const u8) {
        let (g, width) = (map.geometry(), map.output()[1]);
        let y = pixel / width;
        self.first = ((pixel - y * width) * g.stride[1]).wrapping_sub(g.pads[1]);
        let mut row = (y * g.stride[0]).wrapping_sub(g.pads[0]);
        for tap in 0..g.kernel[0] {
            let inside = row < g.input[0];
            self.rows[tap] = if inside { data.wrapping_add(row * g.row_stride) } else { self.padding };
            self.steps[tap] = if inside { g.pixel_stride } else { 0 };
            row = row.wrapping_add(g.dilation[0]);
        }
    }

    /// The columns of the windows, from the first on: where the block's channels lie in each row.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other tiers have their own"))]
    pub(super) fn columns<const SIDE: usize>(&self) -> impl FnMut() -> [*const u8; SIDE] {
        let (padding, width, mut column) = (self.padding, self.width, self.first);
        let steps: [usize; SIDE] = std::array::from_fn(|y| self.steps[y]);
        let mut rows: [*const u8; SIDE] =
            std::array::from_fn(|y| self.rows[y].wrapping_add(column.wrapping_mul(steps[y])));
        move || {
            let here = if column < width { rows } else { [padding; SIDE] };
            for y in 0..SIDE {
                rows[y] = rows[y].wrapping_add(steps[y]);
            }
            column = column.wrapping_add(1);
            here
        }
    }
}

/// None where the tier is another architecture's.
pub(super) fn depthwise_tier(isa: Isa) -> Option<&'static DepthwiseTier> {
    match isa {
        Isa::Scalar => Some(&depthwise_scalar::TIER),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Some(&depthwise_neon::TIER),
        #[cfg(target_arch = "aarch64")]
        Isa::Dotprod | Isa::I8mm => Some(&depthwise_dotprod::TIER),
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon | Isa::Dotprod | Isa::I8mm => None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(&depthwise_avx2::TIER),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => Some(&depthwise_vnni::TIER_256),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Some(&depthwise_vnni::TIER_512),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => None,
    }
}

/// What a depthwise convolution is made of. Zero points are of the signed domain (see [`Storage`]).
#[derive(Debug, Clone, Copy)]
pub struct DepthwiseSpec<'a> {
    /// As ONNX has them: `[channel][kernel height][kernel width]`.
    pub weights: &'a [i8],
    pub channels: usize,
    pub kernel: [usize; 2],
    /// None, one, or one for each channel.
    pub weight_zero_points: &'a [i8],
    /// None or one for each channel, at the scale of the accumulator.
    pub bias: &'a [i32],
    pub input_zero_point: i8,
    pub requant: Requant<'a>,
}

/// A depthwise convolution, ready to run.
#[derive(Debug, Clone)]
pub struct Depthwise {
    tier: &'static DepthwiseTier,
    storage: Storage,
    channels: usize,
    kernel: [usize; 2],
    slots: Vec<u16>,
    blocks: Vec<Packed>,
    finish: Finish,
    table: Option<Box<[u8; 256]>>,
    has_paired_minimum: bool,
}

/// One block's weights and what belongs to its channels.
#[derive(Debug, Clone)]
struct Packed {
    first: usize,
    lanes: usize,
    weights: Lines,
    bias: Numbers<i32>,
    multipliers: Numbers<f32>,
}

impl Depthwise {
    /// Memory that it keeps, packed weights above all.
    pub fn bytes(&self) -> usize {
        let block = |block: &Packed| block.weights.bytes() + (block.bias.len() + block.multipliers.len()) * 4;
        self.blocks.iter().map(block).sum::<usize>() + self.slots.len() * 2
    }

    /// # Errors
    /// If lengths disagree, sums may leave 31 bits, or this CPU lacks `isa`.
    pub fn new(isa: Isa, storage: Storage, spec: &DepthwiseSpec<'_>) -> Result<Self, PackError> {
        let tier = depthwise_tier(isa)
            .filter(|_| isa.is_available() && isa.supports(storage))
            .ok_or(PackError::Isa { isa })?;
        Self::with_tier(tier, storage, spec)
    }

    /// The CPU must have the tier's instructions.
    pub(super) fn with_tier(
        tier: &'static DepthwiseTier,
        storage: Storage,
        spec: &DepthwiseSpec<'_>,
    ) -> Result<Self, PackError> {
        let (channels, taps) = (spec.channels, spec.kernel[0] * spec.kernel[1]);
        if taps > usize::from(u16::MAX) {
            return Err(PackError::Length { what: "taps", found: taps, wanted: usize::from(u16::MAX) });
        }
        let view = WeightView::ohwi(spec.weights, channels, taps, 1)?;
        let zeros = spread("weight zero points", spec.weight_zero_points, channels, 0)?;
        let bias = spread("bias", spec.bias, channels, 0)?;
        let multipliers = spread("multipliers", spec.requant.multipliers, channels, 1.0)?;
        spec.requant.check()?;
        check_multipliers(&multipliers)?;
        let reaches = check_reach(&view, &zeros, &bias)?;
        let fits = converts(&reaches, &multipliers) && fits(&view, &zeros);
        let tier = if fits { tier } else { &depthwise_scalar::TIER };
        let mut made = Self {
            tier,
            storage,
            channels,
            kernel: spec.kernel,
            slots: slots(tier.grouping, spec.kernel),
            blocks: Vec::new(),
            finish: Finish::new(&spec.requant, storage, fits_words(&reaches, &multipliers)),
            table: spec.requant.table.map(|table| Box::new(*table)),
            has_paired_minimum: false,
        };
        let zero_point = i32::from(spec.input_zero_point) + storage.offset();
        let mut first = 0;
        while first < channels {
            let mut block = made.block(first);
            for channel in first..channels.min(first + block.lanes * 16) {
                let sum = made.write_channel(&mut block, &view, channel, zeros[channel]);
                let place = tier.grouping.accumulator(block.lanes, channel - first);
                block.bias[place] = bias[channel].wrapping_sub(zero_point.wrapping_mul(sum));
                block.multipliers[place] = multipliers[channel];
            }
            first += block.lanes * 16;
            made.blocks.push(block);
        }
        Ok(made)
    }

    /// An empty block, as narrow as holds the channels that are left.
    fn block(&self, first: usize) -> Packed {
        let left = (self.channels - first).div_ceil(16);
        let lanes = self.tier.lanes.iter().copied().rfind(|&lanes| lanes >= left).unwrap_or(self.tier.lanes[0]);
        Packed {
            first,
            lanes,
            weights: Lines::zeroed(self.slots.len() * lanes * 16 * self.tier.grouping.weight_bytes()),
            bias: Numbers::filled(0, lanes * 16),
            multipliers: Numbers::filled(0.0, lanes * 16),
        }
    }

    /// Puts one channel's weights into their places; their sum.
    fn write_channel(&mut self, block: &mut Packed, view: &WeightView<'_>, channel: usize, zero: i8) -> i32 {
        let grouping = self.tier.grouping;
        let bytes = grouping.weight_bytes();
        let group = grouping.width() * block.lanes * 16 * bytes;
        let mut seen = vec![false; view.shape()[1]];
        let (mut sum, mut before) = (0, 0);
        for (slot, &tap) in self.slots.iter().enumerate() {
            // A group that its taps do not fill repeats one, with the weight 0.
            if std::mem::replace(&mut seen[usize::from(tap)], true) {
                continue;
            }
            let weight = i16::from(view.at(channel, usize::from(tap), 0)) - i16::from(zero);
            let place = slot / grouping.width() * group
                + grouping.place(block.lanes, channel - block.first, slot % grouping.width());
            for (i, byte) in weight.to_le_bytes().into_iter().take(bytes).enumerate() {
                block.weights.values_mut()[place + i] = byte.cast_signed();
            }
            self.has_paired_minimum |=
                grouping == Grouping::Single && slot % 2 == 1 && weight == -128 && before == -128;
            (sum, before) = (sum + i32::from(weight), weight);
        }
        sum
    }

    /// Output tiles must begin at a block: at multiples of this many columns.
    pub fn column_step(&self) -> usize {
        self.tier.lanes[0] * 16
    }

    /// Bytes that are read of every tap's pixel: the channels in whole blocks.
    pub fn reach(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.first + block.lanes * 16)
    }

    /// Computes one tile of output: rows are output pixels, columns are channels.
    /// `padding` holds `channels` bytes of the input's zero point as stored, and [`SLACK`](super::SLACK).
    ///
    /// # Panics
    /// If the map is of another kernel, the input is too short for it, or the tile begins inside of a block.
    pub fn run(&self, input: &[u8], map: &Indirection, padding: &[u8], output: &mut TileMut<'_, u8>) {
        let (rows, columns) = (output.rows(), output.columns());
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        self.check(input, map, padding, output);
        let sliding = self.sliding(map);
        for packed in self.blocks.iter().filter(|block| columns.contains(&block.first)) {
            let channels = (columns.end - packed.first).min(packed.lanes * 16);
            let data = input[packed.first..].as_ptr();
            let padding = padding.get(packed.first..).unwrap_or(&[]).as_ptr();
            let mut line = Line::new(self.block_of(packed, channels, output), map, padding);
            for run in runs(map, rows.clone()) {
                line.block.pixels = run.len();
                line.block.output = output.pointer(run.start, packed.first);
                // SAFETY: the pixels are the tile's; `map.check` found what they read to be inside of the slices. All taps
                // of a line are one pixel apart, by the map; `new` found the tier on this CPU.
                unsafe {
                    if let Some(kernel) = sliding {
                        line.go_to(map, run.start, data);
                        kernel(&line);
                    } else {
                        self.tap_by_tap(line.block, &map.offsets[run.start * map.taps()..], map.taps(), data, padding);
                    }
                }
                if let Some(table) = &self.table {
                    let columns = packed.first..packed.first + channels;
                    output.pieces(run, columns, |values| look_up_in_place(table, values));
                }
            }
        }
    }

    fn check(&self, input: &[u8], map: &Indirection, padding: &[u8], output: &TileMut<'_, u8>) {
        let (rows, columns) = (output.rows(), output.columns());
        assert!(map.geometry().kernel == self.kernel, "a map for a kernel of {:?}", map.geometry().kernel);
        assert!(rows.end <= map.pixels(), "rows {rows:?} of {} pixels", map.pixels());
        assert!(columns.end <= self.channels, "columns {columns:?} of {} channels", self.channels);
        assert!(columns.start.is_multiple_of(self.column_step()), "column {} is inside of a block", columns.start);
        map.check(input, padding, self.reach());
    }

    /// The kernel for lines of such windows, if there is one.
    fn sliding(&self, map: &Indirection) -> Option<unsafe fn(&Line<'_>)> {
        let g = map.geometry();
        let kernel = match g.kernel {
            [3, 3] => self.tier.line_3x3,
            [5, 5] => self.tier.line_5x5,
            _ => None,
        };
        kernel.filter(|_| g.dilation[1] == 1 && g.stride[1] <= 2 && !self.has_paired_minimum)
    }

    /// What kernels share, for one block, but for the pixels and where they go.
    fn block_of<'a>(&'a self, packed: &Packed, channels: usize, output: &TileMut<'_, u8>) -> Block<'a> {
        Block {
            lanes: packed.lanes,
            channels,
            pixels: 0,
            groups: self.slots.len() / self.tier.grouping.width(),
            weights: packed.weights.as_ptr(),
            bias: packed.bias.as_ptr(),
            multipliers: packed.multipliers.as_ptr(),
            finish: &self.finish,
            row_stride: output.row_stride(),
            output: std::ptr::null_mut(),
        }
    }

    /// # Safety
    /// The contract of [`General`], of which these are the parts.
    unsafe fn tap_by_tap(&self, block: Block<'_>, offsets: &[u32], taps: usize, input: *const u8, padding: *const u8) {
        let call = General { block, slots: self.slots.as_ptr(), input, padding, offsets: offsets.as_ptr(), taps };
        let kernel = self.tier.paired_minimum.filter(|_| self.has_paired_minimum).unwrap_or(self.tier.general);
        // SAFETY: as said.
        unsafe { kernel(&call, self.storage) }
    }
}

/// The taps in the order of the groups. Groups of four take the columns of a window, so that these can slide; of 5x5 they
/// leave the last row, of which four taps in a group slide as well, and one that they have left behind. Single taps of
/// such windows go two by two along each row, and the last column comes behind them.
fn slots(grouping: Grouping, [height, width]: [usize; 2]) -> Vec<u16> {
    let side = if height == width && [3, 5].contains(&height) { height as u16 } else { 0 };
    let mut slots: Vec<u16> = Vec::new();
    match (grouping, side) {
        (Grouping::Quad, 3) => (0..3).for_each(|x| slots.extend([x, x + 3, x + 6, x])),
        (Grouping::Quad, 5) => {
            (0..5).for_each(|x| slots.extend([x, x + 5, x + 10, x + 15]));
            slots.extend([21, 22, 23, 24, 20, 20, 20, 20]);
        }
        (Grouping::Single, 3 | 5) => {
            (0..side).for_each(|y| slots.extend(y * side..(y + 1) * side - 1));
            slots.extend((0..side).map(|y| (y + 1) * side - 1));
        }
        _ => {
            slots.extend(0..(height * width) as u16);
            slots.resize(slots.len().next_multiple_of(grouping.width()), 0);
        }
    }
    slots
}

/// Output pixels line by line.
fn runs(map: &Indirection, pixels: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let width = map.output()[1];
    let lines = pixels.start / width..pixels.end.div_ceil(width);
    lines.map(move |line| (line * width).max(pixels.start)..((line + 1) * width).min(pixels.end))
}
