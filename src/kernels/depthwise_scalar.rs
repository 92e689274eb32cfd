#![allow(unsafe_code, reason = "reads through the same pointers as the tiers that it is the reference of")]
//! Depthwise convolutions of the reference tier: plain Rust, both storages, weights of 16 bits.

use super::depthwise::{DepthwiseTier, General, Grouping};
use super::storage::Storage;

pub(super) static TIER: DepthwiseTier = DepthwiseTier {
    grouping: Grouping::Wide,
    lanes: &[1],
    general: |call, storage| match storage {
        // SAFETY: the same contract.
        Storage::S8 => unsafe { i8_depthwise_16c_scalar(call, |byte| i32::from(byte.cast_signed())) },
        // SAFETY: the same contract.
        Storage::U8 => unsafe { i8_depthwise_16c_scalar(call, i32::from) },
    },
    line_3x3: None,
    line_5x5: None,
    paired_minimum: None,
};

/// # Safety
/// The contract of [`General`].
unsafe fn i8_depthwise_16c_scalar(call: &General<'_>, read: fn(u8) -> i32) {
    let block = &call.block;
    for pixel in 0..block.pixels {
        for channel in 0..block.channels {
            // SAFETY: pixel, channel and tap are the call's; a tap's 16 weights have 16 bits.
            unsafe {
                let mut acc = *block.bias.add(channel);
                for tap in 0..block.groups {
                    let value = read(*call.pixel(pixel, tap).add(channel));
                    let weight = block.weights.cast::<i16>().add(tap * 16 + channel).read();
                    acc = acc.wrapping_add(value * i32::from(weight));
                }
                let byte = block.finish.byte(acc, *block.multipliers.add(channel));
                *block.output.add(pixel * block.row_stride + channel) = byte;
            }
        }
    }
}
