//! Folders of images or of WAV files; each is read when it is asked for.
//!
//! Invariant: files stand in the order of their names, whatever the file system's.

use super::{DataError, Dataset, Label, Reading, Rows, form, tensor_of};
use crate::bundle::{AudioPreprocess, ColorOrder, ImagePreprocess, Layout, Preprocess, Resize};
use crate::tensor::{Tensor, TensorSpec};
use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const IMAGES: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];
const SOUNDS: [&str; 1] = ["wav"];
/// Subfolders whose files have no label.
const UNLABELLED: [&str; 2] = ["unlabelled", "unlabeled"];
/// Of an image's side, in pixels.
const MAX_SIDE: u32 = 16_384;
const MAX_IMAGE_BYTES: u64 = 512 << 20;

#[derive(Debug)]
pub(super) struct Folder {
    files: Vec<PathBuf>,
    preprocess: Preprocess,
}

/// The folder's files, or those of its subfolders, one a class.
pub(super) fn open(path: &Path, specs: &[TensorSpec], reading: &Reading) -> Result<Dataset, DataError> {
    let [_] = specs else {
        return Err(form(path, format!("the model has {} inputs, and files give one: use npz", specs.len())));
    };
    let (folders, mut files) = entries(path)?;
    let mut labels = vec![None; files.len()];
    let name = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_none = |name: &str| UNLABELLED.contains(&name) && !reading.classes.iter().any(|class| class == name);
    let classes = match reading.classes.is_empty() {
        true => folders.iter().map(name).filter(|name| !is_none(name)).collect(),
        false => reading.classes.clone(),
    };
    for folder in &folders {
        let name = name(folder);
        let label = match classes.iter().position(|class| *class == name) {
            Some(class) => Some(Label::Class(class)),
            None if is_none(&name) => None,
            None => return Err(form(folder, format!("{name:?} is none of the model's classes {classes:?}"))),
        };
        let (_, inside) = entries(folder)?;
        if inside.is_empty() {
            return Err(form(folder, "there is no image or WAV file of this class: fill or remove the folder"));
        }
        labels.extend(vec![label; inside.len()]);
        files.extend(inside);
    }
    if files.len() > super::MAX_SAMPLES {
        return Err(form(path, "there are too many files in it"));
    }
    let sounds = files.iter().filter(|file| is_one_of(file, &SOUNDS)).count();
    let expected = match (sounds, &reading.preprocess) {
        (0, None | Some(Preprocess::Image(_))) => reading.preprocess.clone().unwrap_or_default(),
        (0, Some(Preprocess::Audio(_))) => return Err(form(path, "the manifest says audio, and these are images")),
        (_, Some(Preprocess::Image(_))) => {
            return Err(form(path, "the manifest says image, and there are sounds among these"));
        }
        (all, given) if all == files.len() => given.clone().unwrap_or(Preprocess::Audio(AudioPreprocess::default())),
        _ => return Err(form(path, "images and sounds are mixed in it")),
    };
    let layout = if let Preprocess::Image(how) = &expected { Some(how.layout) } else { None };
    let rows = Arc::new(Rows::Files(Folder { files, preprocess: expected }));
    Ok(Dataset { path: path.into(), specs: specs.to_vec(), rows, labels, classes, layout })
}

/// Subfolders, and files of a known kind, by name.
fn entries(path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let failed = |source| DataError::File { path: path.to_owned(), source };
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        // Left there by notebooks, editors and archives.
        if name.starts_with('.') || name == "__MACOSX" {
            continue;
        }
        if entry.is_dir() {
            folders.push(entry);
        } else if is_one_of(&entry, &IMAGES) || is_one_of(&entry, &SOUNDS) {
            files.push(entry);
        }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

fn is_one_of(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|own| extensions.contains(&own.to_string_lossy().to_ascii_lowercase().as_str()))
}

impl Folder {
    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn read(&self, index: usize, spec: &TensorSpec) -> Result<Tensor, String> {
        let file = self.files.get(index).ok_or("there is no such file")?;
        let named = |problem: String| format!("{}: {problem}", file.display());
        match &self.preprocess {
            Preprocess::Image(how) => image_tensor(file, how, spec).map_err(named),
            Preprocess::Audio(how) => sound(file, how, spec).map_err(named),
        }
    }
}

fn image_tensor(file: &Path, how: &ImagePreprocess, spec: &TensorSpec) -> Result<Tensor, String> {
    let mut reader = ImageReader::open(file).map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_IMAGE_BYTES);
    reader.limits(limits);
    let image =
        reader.with_guessed_format().map_err(|error| error.to_string())?.decode().map_err(|error| error.to_string())?;
    let channels = if how.color == ColorOrder::Gray { 1 } else { 3 };
    let expected = || {
        format!("an input of {channels} channels is expected for {:?} images, and this is {}", how.color, spec.form())
    };
    let (height, width) = match (how.layout, spec.shape.as_slice()) {
        (Layout::Nchw, &[1, c, h, w]) | (Layout::Nhwc, &[1, h, w, c]) if c == channels => (h, w),
        _ => return Err(expected()),
    };
    let side = |size: usize| u32::try_from(size).ok().filter(|size| *size <= MAX_SIDE).ok_or_else(expected);
    let image = fitted(image, side(width)?, side(height)?, how.resize);
    let pixels: Vec<[f64; 3]> = match how.color {
        ColorOrder::Gray => image.to_luma8().pixels().map(|pixel| [f64::from(pixel.0[0]); 3]).collect(),
        ColorOrder::Rgb => image.to_rgb8().pixels().map(|pixel| pixel.0.map(f64::from)).collect(),
        ColorOrder::Bgr => {
            image.to_rgb8().pixels().map(|pixel| [pixel.0[2], pixel.0[1], pixel.0[0]].map(f64::from)).collect()
        }
    };
    let value = |pixel: &[f64; 3], channel: usize| {
        let of = |list: &[f32], otherwise: f64| {
            list.get(channel).or(list.first()).map_or(otherwise, |&value| f64::from(value))
        };
        (pixel[channel] * f64::from(how.scale) - of(&how.mean, 0.0)) / of(&how.std, 1.0)
    };
    let values: Vec<f64> = match how.layout {
        Layout::Nchw => {
            (0..channels).flat_map(|channel| pixels.iter().map(move |pixel| value(pixel, channel))).collect()
        }
        Layout::Nhwc => {
            pixels.iter().flat_map(|pixel| (0..channels).map(move |channel| value(pixel, channel))).collect()
        }
    };
    tensor_of(spec.datatype, spec.shape.clone(), &values)
        .ok_or_else(|| format!("its values are none of type {}", spec.datatype))
}

/// Of that size: by stretching, or by filling it and cutting what stands over.
fn fitted(image: DynamicImage, width: u32, height: u32, how: Resize) -> DynamicImage {
    match how {
        Resize::Stretch => image.resize_exact(width, height, FilterType::Triangle),
        Resize::Crop => {
            // Cut first: of a thin image the rest may be thousands of times as large.
            let (own_width, own_height) = (u64::from(image.width()), u64::from(image.height()));
            let fit = |of: u64, other: u64, side: u32, other_side: u32| {
                let cut = (other * u64::from(side)).div_ceil(u64::from(other_side.max(1)));
                u32::try_from(cut.clamp(1, of.max(1))).unwrap_or(1)
            };
            let kept_width = fit(own_width, own_height, width, height);
            let kept_height = fit(own_height, own_width, height, width);
            let (left, top) = ((image.width() - kept_width) / 2, (image.height() - kept_height) / 2);
            image.crop_imm(left, top, kept_width, kept_height).resize_exact(width, height, FilterType::Triangle)
        }
    }
}

/// From the start, as many as the input takes, with silence behind what is shorter; channels are averaged.
fn sound(file: &Path, how: &AudioPreprocess, spec: &TensorSpec) -> Result<Tensor, String> {
    let mut reader = hound::WavReader::open(file).map_err(|error| error.to_string())?;
    let format = reader.spec();
    if how.rate.is_some_and(|rate| rate != format.sample_rate) {
        let expected = how.rate.unwrap_or_default();
        return Err(format!(
            "it has {} samples a second and {expected} are expected: convert it (sox, ffmpeg)",
            format.sample_rate
        ));
    }
    let wanted = spec.shape.iter().product::<usize>();
    let channels = usize::from(format.channels.max(1));
    let most = wanted.saturating_mul(channels);
    let samples: Result<Vec<f64>, hound::Error> = match format.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().take(most).map(|sample| sample.map(f64::from)).collect(),
        hound::SampleFormat::Int => {
            let full = f64::from(2.0_f32).powi(i32::from(format.bits_per_sample.clamp(1, 32)) - 1);
            reader.samples::<i32>().take(most).map(|sample| sample.map(|value| f64::from(value) / full)).collect()
        }
    };
    let samples = samples.map_err(|error| error.to_string())?;
    let mut values: Vec<f64> =
        samples.chunks(channels).map(|frame| frame.iter().sum::<f64>() / channels as f64).collect();
    values.resize(wanted, 0.0);
    tensor_of(spec.datatype, spec.shape.clone(), &values)
        .ok_or_else(|| format!("its values are none of type {}", spec.datatype))
}
