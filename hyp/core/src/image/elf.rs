//! The part of ELF64 that loading needs: the header and the program headers (System V ABI, AArch64).

use alloc::vec::Vec;

use super::{ImageError, Kernel, Kind, Segment};
use crate::addr::Ipa;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_AARCH64: u16 = 183;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
/// Most program headers looked at.
const MAX_SEGMENTS: usize = 64;

pub(super) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// A field of `N` bytes at `at`.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ImageError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().ok_or(ImageError::Elf("that is cut short"))
}

fn half(bytes: &[u8], at: usize) -> Result<u16, ImageError> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn double(bytes: &[u8], at: usize) -> Result<u64, ImageError> {
    field(bytes, at).map(u64::from_le_bytes)
}

fn offset(bytes: &[u8], at: usize) -> Result<usize, ImageError> {
    usize::try_from(double(bytes, at)?).map_err(|_| ImageError::Addresses)
}

/// Lays the file out by physical addresses.
pub(super) fn layout(file: &[u8]) -> Result<Kernel, ImageError> {
    let [_, _, _, _, class, data, ..] = field::<HEADER_BYTES>(file, 0)?;
    if class != CLASS_64 {
        return Err(ImageError::Elf("of 32 bits"));
    }
    if data != LITTLE_ENDIAN {
        return Err(ImageError::Elf("for a big-endian machine"));
    }
    if half(file, 18)? != MACHINE_AARCH64 {
        return Err(ImageError::Elf("for another processor than AArch64"));
    }
    if !matches!(half(file, 16)?, TYPE_EXECUTABLE | TYPE_SHARED) {
        return Err(ImageError::Elf(
            "that is not linked (a relocatable object or core file)",
        ));
    }
    let mut entry = Ipa(double(file, 24)?);
    let table = offset(file, 32)?;
    let size = usize::from(half(file, 54)?);
    let count = usize::from(half(file, 56)?);
    if size < PROGRAM_HEADER_BYTES || count > MAX_SEGMENTS {
        return Err(ImageError::Elf("with malformed program headers"));
    }
    let mut segments = Vec::new();
    for number in 0..count {
        let at = number
            .checked_mul(size)
            .and_then(|bytes| bytes.checked_add(table))
            .ok_or(ImageError::Addresses)?;
        let header = field::<PROGRAM_HEADER_BYTES>(file, at)?;
        match u32::from_le_bytes(field(&header, 0)?) {
            SEGMENT_LOAD => {}
            SEGMENT_INTERPRETER => return Err(ImageError::Elf("that needs a dynamic linker")),
            _ => continue,
        }
        let (virtual_start, ipa) = (double(&header, 16)?, Ipa(double(&header, 24)?));
        let (start, copied) = (offset(&header, 8)?, offset(&header, 32)?);
        let memory = double(&header, 40)?;
        let end = start.checked_add(copied).filter(|end| *end <= file.len());
        let end = end.ok_or(ImageError::Elf("that is cut short"))?;
        let copied = u64::try_from(copied).map_err(|_| ImageError::Addresses)?;
        let zero_fill = memory
            .checked_sub(copied)
            .ok_or(ImageError::Elf("with a segment smaller than its contents"))?;
        ipa.checked_add(memory).ok_or(ImageError::Addresses)?;
        // The entry point is a virtual address: through the segment that holds it.
        if let Some(within) = double(file, 24)?
            .checked_sub(virtual_start)
            .filter(|within| *within < memory)
        {
            entry = ipa.checked_add(within).ok_or(ImageError::Addresses)?;
        }
        if memory != 0 {
            segments.push(Segment {
                ipa,
                source: start..end,
                zero_fill,
            });
        }
    }
    if segments.is_empty() {
        return Err(ImageError::Elf("with nothing to load"));
    }
    Ok(Kernel {
        kind: Kind::Elf,
        entry,
        segments,
    })
}
