//! The boot archive: kernels and ramdisks of all guests in one cpio archive of the "newc" format,
//! handed over as the initramfs. Only read, never unpacked: a name leads to a range of bytes.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::refusal::Refusal;

/// Bytes of a member's header: a magic number and 13 fields of eight hexadecimal digits.
const HEADER_BYTES: usize = 110;
const MAGIC_BYTES: usize = 6;
const FIELD_BYTES: usize = 8;
const TRAILER: &str = "TRAILER!!!";
/// Most members looked at, so that the time is bounded whatever the archive holds.
const MAX_MEMBERS: usize = 256;

/// What is wrong with an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveError {
    /// A member's header does not start with 070701 or 070702.
    NotCpio {
        /// Offset of the header, in bytes.
        offset: usize,
    },
    /// Ends before its trailer.
    Truncated {
        /// Offset of the member that is cut, in bytes.
        offset: usize,
    },
    /// A header's field or a name is malformed.
    Malformed {
        /// Offset of the header, in bytes.
        offset: usize,
    },
    /// More than 256 members.
    TooMany,
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCpio { offset } => {
                write!(f, "has no cpio (newc) header at offset {offset:#x}")
            }
            Self::Truncated { offset } => {
                write!(f, "is cut short in the member at offset {offset:#x}")
            }
            Self::Malformed { offset } => write!(f, "has a malformed header at offset {offset:#x}"),
            Self::TooMany => write!(f, "has more than {MAX_MEMBERS} members"),
        }
    }
}

impl From<ArchiveError> for Refusal {
    fn from(error: ArchiveError) -> Self {
        Self::new("boot archive")
            .problem(error)
            .fix("make it anew, with `cpio -o -H newc` or `cargo xtask image`")
    }
}

/// The index of an archive.
#[derive(Clone)]
pub struct Archive<'a> {
    bytes: &'a [u8],
    files: Vec<(&'a str, Range<usize>)>,
}

impl<'a> Archive<'a> {
    /// Reads the headers of `bytes`; the files' contents are not looked at. What follows the
    /// trailer (firmware pads with zeros) is ignored.
    ///
    /// # Errors
    /// The archive is malformed or cut short.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ArchiveError> {
        let mut files = Vec::new();
        let mut at = 0;
        for _ in 0..MAX_MEMBERS {
            let member = member(bytes, at)?;
            if member.name == TRAILER {
                return Ok(Self { bytes, files });
            }
            if member.is_file {
                files.push((
                    member.name.strip_prefix("./").unwrap_or(member.name),
                    member.data,
                ));
            }
            at = member.next;
        }
        Err(ArchiveError::TooMany)
    }

    /// An archive with nothing in it, for a boot without one.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            bytes: &[],
            files: Vec::new(),
        }
    }

    /// Where the file `name` lies, as a range of the archive's bytes. Of several with one name the
    /// last counts, as when unpacking.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Range<usize>> {
        self.files
            .iter()
            .rev()
            .find(|(file, _)| *file == name)
            .map(|(_, range)| range.clone())
    }

    /// The bytes of `range`, which came from [`Archive::find`].
    #[must_use]
    pub fn bytes(&self, range: &Range<usize>) -> &'a [u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// Names of all files, in order.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.files.iter().map(|(name, _)| *name)
    }
}

struct Member<'a> {
    name: &'a str,
    is_file: bool,
    data: Range<usize>,
    next: usize,
}

fn member(bytes: &[u8], start: usize) -> Result<Member<'_>, ArchiveError> {
    let truncated = ArchiveError::Truncated { offset: start };
    let malformed = ArchiveError::Malformed { offset: start };
    let header = bytes.get(start..).ok_or(truncated)?;
    let magic = header.get(..MAGIC_BYTES).ok_or(truncated)?;
    if magic != b"070701" && magic != b"070702" {
        return Err(ArchiveError::NotCpio { offset: start });
    }
    let fields = header.get(MAGIC_BYTES..HEADER_BYTES).ok_or(truncated)?;
    // In order: ino, mode, uid, gid, nlink, mtime, filesize, four device numbers, namesize, check.
    let field = |number: usize| {
        let digits = fields.chunks_exact(FIELD_BYTES).nth(number)?;
        // from_str_radix would take a sign.
        let text = core::str::from_utf8(digits)
            .ok()
            .filter(|_| digits.iter().all(u8::is_ascii_hexdigit))?;
        usize::try_from(u32::from_str_radix(text, 16).ok()?).ok()
    };
    let (Some(mode), Some(data_bytes), Some(name_bytes)) = (field(1), field(6), field(11)) else {
        return Err(malformed);
    };
    let name_start = start.checked_add(HEADER_BYTES).ok_or(malformed)?;
    let name_end = name_start.checked_add(name_bytes).ok_or(malformed)?;
    let name = bytes.get(name_start..name_end).ok_or(truncated)?;
    let name = name
        .strip_suffix(&[0])
        .and_then(|name| core::str::from_utf8(name).ok())
        .filter(|name| !name.chars().any(char::is_control))
        .ok_or(malformed)?;
    // Name and data are each padded to four bytes from the archive's start.
    let data_start = name_end.checked_next_multiple_of(4).ok_or(malformed)?;
    let data_end = data_start.checked_add(data_bytes).ok_or(malformed)?;
    if data_end > bytes.len() {
        return Err(truncated);
    }
    let next = data_end.checked_next_multiple_of(4).ok_or(malformed)?;
    Ok(Member {
        name,
        is_file: mode & 0o170_000 == 0o100_000,
        data: data_start..data_end,
        next,
    })
}

#[cfg(test)]
mod tests;
