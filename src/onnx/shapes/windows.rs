//! Operators that slide a window: convolutions and pools, channels first unless stated.

use super::{Args, Dim, Shape, sizes};

/// One spatial dimension's window.
#[derive(Debug, Clone, Copy)]
struct Window {
    kernel: i128,
    stride: i128,
    dilation: i128,
    /// Before and after.
    pads: (i128, i128),
}

impl Window {
    /// Elements from the first to the last that it sees.
    fn extent(&self) -> i128 {
        (self.kernel - 1) * self.dilation + 1
    }

    /// Places where it fits. With `ceil` one more may hang over the end, if it begins before it.
    fn places(&self, size: usize, ceil: bool) -> Option<Dim> {
        let (size, stride) = (size as i128, self.stride);
        let free = size + self.pads.0 + self.pads.1 - self.extent();
        let mut places = free.div_euclid(stride) + 1;
        if ceil && free.rem_euclid(stride) != 0 && places * stride < size + self.pads.0 {
            places += 1;
        }
        if places < 1 {
            return None;
        }
        usize::try_from(places).ok().map(Dim::Size)
    }
}

impl Args<'_> {
    /// Output of a convolution of `data` with `weights` (M, C/group, spatial…).
    pub(super) fn conv(&self, data: usize, weights: usize) -> Shape {
        let (data, weights) = (self.shape(data)?, self.shape(weights)?);
        if data.len() != weights.len() || data.len() < 3 {
            return None;
        }
        let kernel: Vec<Option<usize>> = match self.node.ints("kernel_shape") {
            Some(kernel) => kernel.iter().map(|&k| usize::try_from(k).ok()).collect(),
            None => weights[2..].iter().map(Dim::size).collect(),
        };
        let mut dims = vec![data[0].clone(), weights[0].clone()];
        dims.extend(self.slide(&data[2..], &kernel, false)?);
        Some(dims)
    }

    pub(super) fn pool(&self, channels_last: bool) -> Shape {
        let data = self.shape(0)?;
        let kernel: Vec<_> = self.node.ints("kernel_shape")?.iter().map(|&k| usize::try_from(k).ok()).collect();
        let (first, last) = if channels_last { (1, data.len().checked_sub(1)?) } else { (2, data.len()) };
        let spatial = self.slide(data.get(first..last)?, &kernel, self.flag("ceil_mode"))?;
        Some(data[..first].iter().cloned().chain(spatial).chain(data[last..].iter().cloned()).collect())
    }

    pub(super) fn global_pool(&self, channels_last: bool) -> Shape {
        let mut dims = self.shape(0)?.to_vec();
        let last = if channels_last { dims.len().checked_sub(1)? } else { dims.len() };
        dims.get_mut(if channels_last { 1 } else { 2 }..last)?.fill(Dim::Size(1));
        Some(dims)
    }

    fn slide(&self, spatial: &[Dim], kernel: &[Option<usize>], ceil: bool) -> Shape {
        if kernel.len() != spatial.len() {
            return None;
        }
        let same = self.node.text("auto_pad").is_some_and(|pad| pad.starts_with("SAME_"));
        let one = |(at, dim): (usize, &Dim)| {
            let (Some(size), Some(kernel)) = (dim.size(), kernel[at]) else { return Some(Dim::Unknown) };
            let window = self.window(at, kernel, spatial.len())?;
            if same {
                return Some(Dim::Size(size.div_ceil(usize::try_from(window.stride).ok()?)));
            }
            window.places(size, ceil)
        };
        spatial.iter().enumerate().map(one).collect()
    }

    /// `None` where an attribute makes no sense.
    fn window(&self, at: usize, kernel: usize, spatial: usize) -> Option<Window> {
        let entry = |name: &str, at: usize, default: i64| match self.node.ints(name) {
            Some(list) => list.get(at).copied().map(i128::from),
            None => Some(i128::from(default)),
        };
        let explicit = matches!(self.node.text("auto_pad"), None | Some("NOTSET"));
        let pads = if explicit { (entry("pads", at, 0)?, entry("pads", at + spatial, 0)?) } else { (0, 0) };
        let (stride, dilation) = (entry("strides", at, 1)?, entry("dilations", at, 1)?);
        let kernel = i128::try_from(kernel).ok()?;
        (kernel > 0 && stride > 0 && dilation > 0).then_some(Window { kernel, stride, dilation, pads })
    }

    /// Weights are (C, M/group, spatial…).
    pub(super) fn conv_transpose(&self) -> Shape {
        let (data, weights) = (self.shape(0)?, self.shape(1)?);
        if data.len() != weights.len() || data.len() < 3 {
            return None;
        }
        let group = usize::try_from(self.int("group", 1)).ok()?;
        let channels = weights[1].size().and_then(|channels| channels.checked_mul(group));
        let mut dims = vec![data[0].clone(), channels.map_or(Dim::Unknown, Dim::Size)];
        if let Some(stated) = self.node.ints("output_shape").filter(|stated| !stated.is_empty()) {
            // Some write all dimensions, some the spatial ones alone.
            let spatial = stated.get(stated.len().checked_sub(data.len() - 2)?..)?;
            dims.extend(spatial.iter().map(|&size| usize::try_from(size).map_or(Dim::Unknown, Dim::Size)));
            return Some(dims);
        }
        let kernel = sizes(&weights[2..]);
        for (at, dim) in data[2..].iter().enumerate() {
            let known = dim.size().zip(kernel.as_ref().map(|kernel| kernel[at]));
            dims.push(match known {
                Some((size, kernel)) => self.spread(at, size, kernel, data.len() - 2)?,
                None => Dim::Unknown,
            });
        }
        Some(dims)
    }

    fn spread(&self, at: usize, size: usize, kernel: usize, spatial: usize) -> Option<Dim> {
        let window = self.window(at, kernel, spatial)?;
        let more = self.node.ints("output_padding").and_then(|list| list.get(at).copied()).unwrap_or(0);
        let same = self.node.text("auto_pad").is_some_and(|pad| pad.starts_with("SAME_"));
        let size = i128::try_from(size).ok()?;
        let total = if same {
            size.checked_mul(window.stride)?
        } else {
            window.stride.checked_mul(size - 1)? + i128::from(more) + window.extent() - window.pads.0 - window.pads.1
        };
        usize::try_from(total).ok().map(Dim::Size)
    }
}
