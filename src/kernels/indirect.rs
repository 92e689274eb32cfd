//! Which input pixel meets which tap of a sliding window at which output pixel.
//!
//! Invariant: every offset stands for a pixel inside of the input that the geometry describes, or is [`PADDING`];
//! [`Indirection::reach`] is the largest of them. Built once, at load, for one image; batches run image by image.
//! Not here: values. A padding tap reads a row that the caller fills with the zero point.

/// The offset of a tap that meets no pixel.
pub(super) const PADDING: u32 = u32::MAX;

/// A sliding window over an image in NHWC; strides in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Height and width of the input.
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Top, left, bottom, right.
    pub pads: [usize; 4],
    pub pixel_stride: usize,
    /// From one line of the image to the next.
    pub row_stride: usize,
}

/// Why a window cannot slide.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    #[error("kernel, stride and dilation must be at least 1: {0:?}")]
    Zero(Geometry),
    #[error("the kernel does not fit into the padded input: {0:?}")]
    TooSmall(Geometry),
    #[error("the input spans 4 GiB or more: {0:?}")]
    TooLarge(Geometry),
}

impl Geometry {
    /// Height and width of the output.
    pub fn output(&self) -> Result<[usize; 2], GeometryError> {
        if [self.kernel, self.stride, self.dilation].concat().contains(&0) {
            return Err(GeometryError::Zero(*self));
        }
        let side = |i: usize| {
            let window = (self.kernel[i] - 1).checked_mul(self.dilation[i])?.checked_add(1)?;
            let padded = self.input[i].checked_add(self.pads[i])?.checked_add(self.pads[i + 2])?;
            Some(padded.checked_sub(window)? / self.stride[i] + 1)
        };
        match (side(0), side(1)) {
            (Some(height), Some(width)) => Ok([height, width]),
            _ => Err(GeometryError::TooSmall(*self)),
        }
    }
}

/// Of a map: 256 MiB.
const MAX_ENTRIES: usize = 1 << 26;

/// Offsets of pixels in bytes: `[output pixel][tap]`.
#[derive(Debug, Clone)]
pub struct Indirection {
    pub(super) offsets: Vec<u32>,
    taps: usize,
    reach: usize,
    padded: bool,
    geometry: Geometry,
    output: [usize; 2],
}

impl Indirection {
    pub fn new(geometry: &Geometry) -> Result<Self, GeometryError> {
        let output = geometry.output()?;
        let last = geometry.input[0]
            .checked_mul(geometry.row_stride)
            .and_then(|rows| rows.checked_add(geometry.input[1].checked_mul(geometry.pixel_stride)?));
        if last.is_none_or(|last| last >= PADDING as usize) {
            return Err(GeometryError::TooLarge(*geometry));
        }
        let mut map = Self { offsets: Vec::new(), taps: 0, reach: 0, padded: false, geometry: *geometry, output };
        let taps = geometry.kernel[0].checked_mul(geometry.kernel[1]);
        let entries = taps.and_then(|taps| output[0].checked_mul(output[1])?.checked_mul(taps));
        let entries = entries.filter(|&entries| entries <= MAX_ENTRIES).ok_or(GeometryError::TooLarge(*geometry))?;
        map.taps = geometry.kernel[0] * geometry.kernel[1];
        map.offsets.reserve_exact(entries);
        for y in 0..output[0] {
            for x in 0..output[1] {
                map.push_window(y, x);
            }
        }
        Ok(map)
    }

    fn push_window(&mut self, y: usize, x: usize) {
        let g = self.geometry;
        for ky in 0..g.kernel[0] {
            for kx in 0..g.kernel[1] {
                let row = (y * g.stride[0] + ky * g.dilation[0]).checked_sub(g.pads[0]).filter(|&row| row < g.input[0]);
                let col = (x * g.stride[1] + kx * g.dilation[1]).checked_sub(g.pads[1]).filter(|&col| col < g.input[1]);
                let offset = match (row, col) {
                    (Some(row), Some(col)) => row * g.row_stride + col * g.pixel_stride,
                    _ => PADDING as usize,
                };
                if offset == PADDING as usize {
                    self.padded = true;
                } else {
                    self.reach = self.reach.max(offset);
                }
                self.offsets.push(offset as u32);
            }
        }
    }

    /// Output pixels.
    pub fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        self.output
    }

    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.offsets[..])
    }

    pub fn taps(&self) -> usize {
        self.taps
    }

    /// Whether any tap meets no pixel.
    pub fn is_padded(&self) -> bool {
        self.padded
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The same for a map in units of floats; without zeros for what reads no padding.
    pub(super) fn check_floats(&self, input: &[f32], zeros: Option<&[f32]>, width: usize) {
        let needed = self.reach + width;
        assert!(needed <= input.len(), "input of {} floats, {needed} needed", input.len());
        let there = zeros.map_or(width, <[f32]>::len);
        assert!(!self.padded || width <= there, "{there} zeros, {width} needed");
    }

    /// Panics unless every tap finds `width` bytes, in the input or in the row of padding.
    pub(super) fn check(&self, input: &[u8], padding: &[u8], width: usize) {
        let needed = self.reach + width;
        assert!(needed <= input.len(), "input of {} bytes, {needed} needed (with slack)", input.len());
        assert!(!self.padded || width <= padding.len(), "row of padding of {} bytes, {width} needed", padding.len());
    }
}
