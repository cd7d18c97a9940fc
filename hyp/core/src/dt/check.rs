//! The one pass over a blob: checks its structure and fills the index as it goes (DT specification
//! v0.4, chapter 5).
//!
//! Boot counts instructions, so nothing is read twice and padding never. The `fdt` crate parses each property twice
//! and panics on malformed trees, so it only serves the tests, which compare the two.

use super::{BlobError, DeviceTree, Entry, Status};
use crate::addr::{Pa, PaRange};

pub(super) const MAGIC: u32 = 0xd00d_feed;
const HEADER_BYTES: usize = 40;
pub(super) const BEGIN_NODE: u32 = 1;
pub(super) const END_NODE: u32 = 2;
pub(super) const PROP: u32 = 3;
pub(super) const NOP: u32 = 4;
pub(super) const END: u32 = 9;

/// Deepest node accepted; real boards use about 8.
const MAX_DEPTH: usize = 32;
/// Most nodes accepted; a Raspberry Pi 4 has about 350.
pub(super) const MAX_NODES: usize = 4096;
/// Most memory reservations accepted.
const MAX_RESERVATIONS: usize = 64;
/// Longest name of a node with its unit address.
const MAX_NAME: usize = 127;

/// Header fields that matter, widened.
struct Header {
    total: usize,
    structure: (usize, usize),
    strings: (usize, usize),
    reservations: usize,
}

/// The big-endian word at `at`.
#[inline(always)]
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

/// Three big-endian words, as a property begins with.
#[inline(always)]
pub(super) fn words(bytes: &[u8; 12]) -> [u32; 3] {
    let word = |at| word(bytes, at).unwrap_or(0);
    [word(0), word(4), word(8)]
}

/// The bit of `Entry::lengths` for a string of `length` bytes.
pub(super) fn length_bit(length: usize) -> u32 {
    1_u32.wrapping_shl(u32::try_from(length & 31).unwrap_or(0))
}

/// Whether all of `text` is printable ASCII or NUL. Eight bytes at a time: it is the largest thing that is read
/// byte by byte.
fn is_text(text: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES << 7;
    let (words, rest) = text.as_chunks::<8>();
    words.iter().all(|word| {
        let word = u64::from_le_bytes(*word);
        // With the top bits clear no sum below carries from byte to byte.
        let low = word & !TOPS;
        let from_21 = low.wrapping_add(ONES.wrapping_mul(0x80 - 0x21));
        let from_1 = low.wrapping_add(ONES.wrapping_mul(0x7f));
        let from_7f = low.wrapping_add(ONES);
        (word | (from_1 & !from_21) | from_7f) & TOPS == 0
    }) && rest
        .iter()
        .all(|byte| byte.is_ascii_graphic() || *byte == 0)
}

/// The node's name that `rest` begins with, which stands on a word. A word at a time.
pub(super) fn name(rest: &[u8]) -> Option<&[u8]> {
    const ONES: u32 = u32::MAX / 0xff;
    let words = rest.as_chunks::<4>().0;
    // Whether one of its bytes is zero: the lowest such bit is right.
    let ends = |word: &[u8; 4]| {
        let word = u32::from_le_bytes(*word);
        word.wrapping_sub(ONES) & !word & (ONES << 7) != 0
    };
    let last = words.iter().position(ends)?;
    let start = last.checked_mul(4)?;
    let bytes = words.get(last)?.iter().position(|byte| *byte == 0)?;
    rest.get(..start.checked_add(bytes)?)
}

fn field(bytes: &[u8], at: usize) -> Result<usize, BlobError> {
    word(bytes, at)
        .and_then(|value| usize::try_from(value).ok())
        .ok_or(BlobError::TooShort)
}

fn header(blob: &[u8]) -> Result<Header, BlobError> {
    if blob.len() < HEADER_BYTES {
        return Err(BlobError::TooShort);
    }
    if word(blob, 0) != Some(MAGIC) {
        return Err(BlobError::BadMagic);
    }
    // Version 17 added size_dt_struct; anything compatible with 17 reads like it.
    if field(blob, 20)? < 17 || field(blob, 24)? > 17 {
        return Err(BlobError::BadVersion);
    }
    let header = Header {
        total: field(blob, 4)?,
        structure: (field(blob, 8)?, field(blob, 36)?),
        strings: (field(blob, 12)?, field(blob, 32)?),
        reservations: field(blob, 16)?,
    };
    let fits = |(start, size): (usize, usize)| {
        start
            .checked_add(size)
            .is_some_and(|end| end <= header.total)
    };
    if header.total > blob.len() || header.total < HEADER_BYTES {
        return Err(BlobError::TooShort);
    }
    if !fits(header.structure)
        || !fits(header.strings)
        || header.structure.0.checked_rem(4) != Some(0)
    {
        return Err(BlobError::BadLayout);
    }
    Ok(header)
}

/// The reservation block, which ends in a zero entry within the blob.
fn reservations(blob: &[u8], start: usize) -> Result<&[u8], BlobError> {
    let block = blob.get(start..).ok_or(BlobError::BadLayout)?;
    let end = block
        .as_chunks::<16>()
        .0
        .iter()
        .take(MAX_RESERVATIONS)
        .position(|entry| *entry == [0; 16]);
    end.and_then(|count| block.get(..count.checked_mul(16)?))
        .ok_or(BlobError::BadReservations)
}

/// The blocks of a blob.
pub(super) struct Sections<'a> {
    /// Pairs of address and size, 16 bytes each.
    pub reservations: &'a [u8],
    pub structure: &'a [u8],
    pub strings: &'a [u8],
}

/// The blocks of `blob`, whose contents are still to be checked.
pub(super) fn sections(blob: &[u8]) -> Result<Sections<'_>, BlobError> {
    let header = header(blob)?;
    let blob = blob.get(..header.total).ok_or(BlobError::TooShort)?;
    let section = |(start, size): (usize, usize)| {
        let rest = blob.get(start..).and_then(|rest| rest.get(..size));
        rest.ok_or(BlobError::BadLayout)
    };
    Ok(Sections {
        reservations: reservations(blob, header.reservations)?,
        strings: section(header.strings)?,
        structure: section(header.structure)?,
    })
}

/// An entry of the reservation block.
pub(super) fn reservation(entry: &[u8; 16]) -> PaRange {
    let half = |at| word(entry, at).map_or(0, u64::from);
    let (start, size) = (half(0) << 32 | half(4), half(8) << 32 | half(12));
    PaRange {
        start: Pa(start),
        size,
    }
}

/// Checks `blob` and indexes its nodes, for `room` of which there is memory at once.
pub(super) fn index(blob: &[u8], room: usize) -> Result<DeviceTree<'_>, BlobError> {
    let sections = sections(blob)?;
    let Sections {
        strings, structure, ..
    } = sections;
    // Once for all names: each is printable and ends in the block.
    let strings = core::str::from_utf8(strings)
        .ok()
        .filter(|text| is_text(text.as_bytes()))
        .filter(|text| text.is_empty() || text.ends_with('\0'))
        .ok_or(BlobError::BadName)?;
    let mut tree = DeviceTree {
        structure,
        strings,
        ..DeviceTree::default()
    };
    tree.nodes.reserve_exact(room);
    tree.phandles.reserve_exact(room);
    for entry in sections.reservations.as_chunks::<16>().0 {
        tree.reservations.push(reservation(entry));
    }
    let mut walk = Walk {
        structure,
        strings,
        at: 0,
        tree,
    };
    walk.run()?;
    Ok(walk.tree)
}

/// The state of the pass.
struct Walk<'a> {
    structure: &'a [u8],
    strings: &'a str,
    /// Offset of the next token.
    at: usize,
    tree: DeviceTree<'a>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<(), BlobError> {
        let mut open: heapless::Vec<u32, MAX_DEPTH> = heapless::Vec::new();
        // Whether the open node may still have properties: they stand before its children.
        let mut properties_allowed = false;
        loop {
            let bad = BlobError::BadStructure { offset: self.at };
            match self.word().ok_or(bad)? {
                BEGIN_NODE => {
                    let is_root = self.tree.nodes.is_empty();
                    if open.is_empty() && !is_root {
                        return Err(bad);
                    }
                    let number = self.begin_node(open.last().copied().unwrap_or(0), is_root)?;
                    open.push(number).map_err(|_| BlobError::TooDeep)?;
                    properties_allowed = true;
                }
                PROP if properties_allowed => {
                    self.property(open.last().copied().ok_or(bad)?, bad)?
                }
                END_NODE => {
                    let number = open.pop().ok_or(bad)?;
                    let end = count(self.tree.nodes.len())?;
                    self.tree
                        .nodes
                        .get_mut(super::index(number))
                        .ok_or(bad)?
                        .end = end;
                    properties_allowed = false;
                }
                NOP => {}
                END if open.is_empty() && !self.tree.nodes.is_empty() => return Ok(()),
                _ => return Err(bad),
            }
        }
    }

    /// Takes a word off the structure block.
    fn word(&mut self) -> Option<u32> {
        let value = word(self.structure, self.at)?;
        self.at = self.at.checked_add(4)?;
        Some(value)
    }

    fn begin_node(&mut self, parent: u32, is_root: bool) -> Result<u32, BlobError> {
        let rest = self.structure.get(self.at..).ok_or(BlobError::BadName)?;
        let name = name(rest).ok_or(BlobError::BadName)?;
        self.at = self
            .at
            .checked_add(name.len())
            .and_then(|end| end.checked_add(4))
            .map(|end| end & !3)
            .ok_or(BlobError::BadName)?;
        let is_plain = is_text(name) && !name.contains(&b'/') && name.len() <= MAX_NAME;
        if !is_plain || name.is_empty() != is_root {
            return Err(BlobError::BadName);
        }
        let name = core::str::from_utf8(name).map_err(|_| BlobError::BadName)?;
        if self.tree.nodes.len() >= MAX_NODES {
            return Err(BlobError::TooManyNodes);
        }
        let number = count(self.tree.nodes.len())?;
        self.tree.nodes.push(Entry {
            name: if is_root { "/" } else { name },
            properties: count(self.at)?,
            compatible: 0,
            lengths: 0,
            status: Status::None,
            is_memory: false,
            parent,
            end: 0,
        });
        Ok(number)
    }

    fn property(&mut self, node: u32, bad: BlobError) -> Result<(), BlobError> {
        // Behind the token that was taken.
        let token = self.at.saturating_sub(4);
        let rest = self.structure.get(token..).ok_or(bad)?;
        let (head, rest) = rest.split_first_chunk().ok_or(bad)?;
        let [_, length, name_at] = words(head).map(super::index);
        let value = rest.get(..length).ok_or(bad)?;
        let taken = length.checked_add(15).ok_or(bad)? & !3;
        self.at = token.checked_add(taken).ok_or(bad)?;
        let name = self.strings.as_bytes().get(name_at..);
        let name = name.filter(|name| !matches!(name.first(), None | Some(0)));
        let name = name.ok_or(BlobError::BadName)?;
        let Some(entry) = self.tree.nodes.get_mut(super::index(node)) else {
            return Err(bad);
        };
        // By the first letter first: most properties are none of these. Of several of one name the first counts.
        match name.first() {
            Some(b'c') if name.first_chunk() == Some(b"compatible\0") && entry.compatible == 0 => {
                entry.compatible = count(token)?;
                entry.lengths = lengths(value);
            }
            Some(b'd') if name.first_chunk() == Some(b"device_type\0") => {
                entry.is_memory |= value == b"memory\0";
            }
            Some(b'p') if name.first_chunk() == Some(b"phandle\0") => {
                if let Ok(phandle) = value.try_into() {
                    self.tree.phandles.push((u32::from_be_bytes(phandle), node));
                }
            }
            Some(b's')
                if name.first_chunk() == Some(b"status\0") && entry.status == Status::None =>
            {
                let is_okay = matches!(value, b"okay\0" | b"ok\0");
                entry.status = if is_okay { Status::Okay } else { Status::Other };
            }
            _ => {}
        }
        Ok(())
    }
}

/// The lengths of the strings in `value`, a bit each; all of them if the last one does not end.
fn lengths(value: &[u8]) -> u32 {
    let mut lengths = 0;
    let mut length = 0_usize;
    for byte in value {
        if *byte == 0 {
            lengths |= length_bit(length);
            length = 0;
        } else {
            length = length.saturating_add(1);
        }
    }
    lengths
}

/// A number of nodes, or an offset, as the index keeps it.
fn count(length: usize) -> Result<u32, BlobError> {
    u32::try_from(length).map_err(|_| BlobError::TooManyNodes)
}

#[cfg(test)]
mod tests {
    use super::is_text;

    #[test]
    fn text_is_told_byte_by_byte_as_word_by_word() {
        for byte in 0..=u8::MAX {
            for at in 0..11 {
                for around in [0, b'!', b'~'] {
                    let mut text = [around; 11];
                    text[at] = byte;
                    let expected = byte.is_ascii_graphic() || byte == 0;
                    assert_eq!(is_text(&text), expected, "{byte:#x} at {at}");
                }
            }
        }
    }
}
