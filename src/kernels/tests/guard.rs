//! Memory that ends where a page without access begins.

use std::ffi::{c_int, c_void};

unsafe extern "C" {
    fn mmap(at: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
    fn mprotect(at: *mut c_void, length: usize, protection: c_int) -> c_int;
    fn munmap(at: *mut c_void, length: usize) -> c_int;
}

const READ_WRITE: c_int = 3;
const PRIVATE_ANONYMOUS: c_int = 0x22;
/// The largest page that Arm Linux has.
const PAGE: usize = 65_536;

/// Bytes behind which any access faults.
#[derive(Debug)]
pub struct Guarded {
    start: *mut u8,
    mapped: usize,
    length: usize,
}

impl Guarded {
    pub fn new(bytes: &[u8]) -> Self {
        let mapped = bytes.len().next_multiple_of(PAGE) + PAGE;
        // SAFETY: asks for fresh memory.
        let start = unsafe { mmap(std::ptr::null_mut(), mapped, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0) };
        assert!(start.addr() != usize::MAX, "no memory");
        let start = start.cast::<u8>();
        // SAFETY: the last page of what was just mapped.
        assert_eq!(unsafe { mprotect(start.add(mapped - PAGE).cast(), PAGE, 0) }, 0);
        let mut guarded = Self { start, mapped, length: bytes.len() };
        guarded.bytes_mut().copy_from_slice(bytes);
        guarded
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `length` bytes before the guarded page, mapped for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.add(self.mapped - PAGE - self.length), self.length) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(self.mapped - PAGE - self.length), self.length) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped.
        unsafe { munmap(self.start.cast(), self.mapped) };
    }
}
