#![allow(unsafe_code, reason = "the same bytes as another type")]
//! Floats in the bytes of a tensor, where they can be had without copying: where they are aligned.

// ONNX tensors are little-endian, and so are all boards.
const _: () = assert!(cfg!(target_endian = "little"), "for little-endian machines only");

/// As floats, if the bytes lie so.
pub fn floats(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: any bits are an f32.
    let (before, floats, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(floats)
}

/// As floats, if the bytes lie so.
pub fn floats_mut(bytes: &mut [u8]) -> Option<&mut [f32]> {
    // SAFETY: any bits are an f32, and any f32 is four bytes.
    let (before, floats, after) = unsafe { bytes.align_to_mut::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(floats)
}

/// The bytes of floats, as they lie in memory.
pub fn bytes_mut(floats: &mut [f32]) -> &mut [u8] {
    // SAFETY: any f32 is four bytes, any four bytes are an f32, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), size_of_val(floats)) }
}
