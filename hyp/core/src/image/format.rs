//! Telling kernels by their first bytes.

use alloc::format;
use alloc::string::{String, ToString};

use super::{ImageError, Kernel, Kind, Segment};
use crate::addr::Ipa;

/// The arm64 Image header (Linux, Documentation/arch/arm64/booting.rst).
pub(super) struct Arm64Header {
    text_offset: u64,
    image_size: u64,
    flags: u64,
}

const ARM64_MAGIC: &[u8] = b"ARM\x64";
const ARM64_MAGIC_AT: usize = 0x38;
const FLAG_BIG_ENDIAN: u64 = 1;
/// Where a kernel from before 3.17 goes, whose `image_size` is 0.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;

fn word(file: &[u8], at: usize) -> Option<u64> {
    let bytes = file.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes))
}

fn has(file: &[u8], at: usize, magic: &[u8]) -> bool {
    file.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

pub(super) fn arm64_header(file: &[u8]) -> Option<Arm64Header> {
    if !has(file, ARM64_MAGIC_AT, ARM64_MAGIC) {
        return None;
    }
    Some(Arm64Header {
        text_offset: word(file, 8)?,
        image_size: word(file, 16)?,
        flags: word(file, 24)?,
    })
}

impl Arm64Header {
    /// The file goes `text_offset` bytes from a 2 MiB boundary, the base of RAM, and owns
    /// `image_size` bytes from there on. Its page size (flags, bits 2:1) does not matter to that.
    pub(super) fn layout(&self, file_bytes: usize, ram_base: Ipa) -> Result<Kernel, ImageError> {
        if self.flags & FLAG_BIG_ENDIAN != 0 {
            return Err(ImageError::BigEndian);
        }
        let text_offset = if self.image_size == 0 {
            OLD_TEXT_OFFSET
        } else {
            self.text_offset
        };
        let start = ram_base
            .checked_add(text_offset)
            .ok_or(ImageError::Addresses)?;
        let bytes = u64::try_from(file_bytes).map_err(|_| ImageError::Addresses)?;
        let zero_fill = self.image_size.saturating_sub(bytes);
        start
            .checked_add(bytes.max(self.image_size))
            .ok_or(ImageError::Addresses)?;
        let segment = Segment {
            ipa: start,
            source: 0..file_bytes,
            zero_fill,
        };
        Ok(Kernel {
            kind: Kind::Arm64Image,
            entry: start,
            segments: alloc::vec![segment],
        })
    }
}

/// The name of the compression `file` starts with.
pub(super) fn compression(file: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 7] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x89LZO", "lzop"),
    ];
    MAGICS
        .iter()
        .find(|(magic, _)| file.starts_with(magic))
        .map(|(_, name)| *name)
}

/// Words for a file that is no kernel.
pub(super) fn describe(file: &[u8]) -> String {
    const MAGICS: [(usize, &[u8], &str); 9] = [
        (4, b"zimg", "a compressed EFI (zboot) kernel"),
        (0x24, b"\x18\x28\x6f\x01", "a 32-bit Arm zImage"),
        (0x30, b"RISCV\0\0\0", "a RISC-V Image"),
        (0x202, b"HdrS", "an x86 bzImage"),
        (0, b"\x27\x05\x19\x56", "a U-Boot legacy image"),
        (0, b"\xd0\x0d\xfe\xed", "a device tree or FIT image"),
        (0, b"07070", "a cpio archive"),
        (0, b"MZ", "a PE (EFI) program"),
        (0, b"#!", "a script"),
    ];
    if file.is_empty() {
        return "empty".to_string();
    }
    match MAGICS.iter().find(|(at, magic, _)| has(file, *at, magic)) {
        Some((_, _, name)) => (*name).to_string(),
        None => {
            let first: String = file
                .iter()
                .take(8)
                .map(|byte| format!(" {byte:02x}"))
                .collect();
            format!("of an unknown kind (it starts with{first})")
        }
    }
}
