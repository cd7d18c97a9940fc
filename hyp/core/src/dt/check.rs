//! The structural check in front of the `fdt` crate: after it, that crate's node and property walk
//! cannot panic, whatever the blob holds (DT specification v0.4, chapter 5).
//!
//! One pass over the structure block and one over the strings block; padding is never looked at.

use alloc::vec::Vec;

use super::BlobError;

const MAGIC: u32 = 0xd00d_feed;
const HEADER_BYTES: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Deepest node accepted; the `fdt` crate keeps 64 levels, real boards use about 8.
const MAX_DEPTH: usize = 32;
/// Most nodes accepted; a Raspberry Pi 4 has about 350.
const MAX_NODES: usize = 4096;
/// Most memory reservations accepted.
const MAX_RESERVATIONS: usize = 64;
/// Longest name of a node with its unit address.
const MAX_NAME: usize = 127;

/// Where one node stands in the tree. Nodes are numbered in the order of the structure block.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Number of the parent; the root is its own.
    pub parent: u32,
    /// Number of the first node behind this one's descendants.
    pub end: u32,
    /// Properties of this node alone.
    pub properties: u32,
}

/// Header fields that matter, widened.
struct Header {
    total: usize,
    structure: (usize, usize),
    strings: (usize, usize),
    reservations: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
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

/// The reservation block ends in a zero entry within the blob.
fn check_reservations(blob: &[u8], start: usize) -> Result<(), BlobError> {
    let block = blob.get(start..).ok_or(BlobError::BadLayout)?;
    let end = block
        .chunks_exact(16)
        .take(MAX_RESERVATIONS)
        .position(|entry| entry.iter().all(|&byte| byte == 0));
    end.map(|_| ()).ok_or(BlobError::BadReservations)
}

/// Checks `blob`; on success says the shape of the tree, one entry a node.
pub(super) fn check(blob: &[u8]) -> Result<Vec<Shape>, BlobError> {
    let header = header(blob)?;
    let blob = blob.get(..header.total).ok_or(BlobError::TooShort)?;
    check_reservations(blob, header.reservations)?;

    let section =
        |(start, size): (usize, usize)| blob.get(start..).and_then(|rest| rest.get(..size));
    let strings = section(header.strings).ok_or(BlobError::BadLayout)?;
    let structure = section(header.structure).ok_or(BlobError::BadLayout)?;
    if !strings.is_ascii() {
        return Err(BlobError::BadName);
    }
    // A name that starts at or before the last NUL is terminated.
    let names_end = strings
        .iter()
        .rposition(|&byte| byte == 0)
        .map_or(0, |last| last.saturating_add(1));
    walk(structure, names_end)
}

fn walk(structure: &[u8], names_end: usize) -> Result<Vec<Shape>, BlobError> {
    let mut shapes: Vec<Shape> = Vec::with_capacity(64);
    let mut open: heapless::Vec<u32, MAX_DEPTH> = heapless::Vec::new();
    let mut at = 0_usize;
    // Whether the open node may still have properties: they stand before its children.
    let mut properties_allowed = false;
    let bad = |at: usize| BlobError::BadStructure { offset: at };
    loop {
        let token_at = at;
        let token = word(structure, at).ok_or(bad(token_at))?;
        at = at.saturating_add(4);
        match token {
            BEGIN_NODE => {
                if open.is_empty() && !shapes.is_empty() {
                    return Err(bad(token_at));
                }
                at = skip_name(structure, at, open.is_empty())?;
                let number = u32::try_from(shapes.len()).map_err(|_| BlobError::TooManyNodes)?;
                if shapes.len() >= MAX_NODES {
                    return Err(BlobError::TooManyNodes);
                }
                shapes.push(Shape {
                    parent: open.last().copied().unwrap_or(0),
                    end: 0,
                    properties: 0,
                });
                open.push(number).map_err(|_| BlobError::TooDeep)?;
                properties_allowed = true;
            }
            END_NODE => {
                let number = open.pop().ok_or(bad(token_at))?;
                let end = u32::try_from(shapes.len()).map_err(|_| BlobError::TooManyNodes)?;
                shape_of(&mut shapes, number).ok_or(bad(token_at))?.end = end;
                properties_allowed = false;
            }
            PROP if properties_allowed => {
                let length = field(structure, at).map_err(|_| bad(token_at))?;
                let name = field(structure, at.saturating_add(4)).map_err(|_| bad(token_at))?;
                if name >= names_end {
                    return Err(BlobError::BadName);
                }
                let padded = length.checked_next_multiple_of(4).ok_or(bad(token_at))?;
                at = at
                    .checked_add(8)
                    .and_then(|value| value.checked_add(padded))
                    .ok_or(bad(token_at))?;
                let number = open.last().copied().ok_or(bad(token_at))?;
                let shape = shape_of(&mut shapes, number).ok_or(bad(token_at))?;
                shape.properties = shape.properties.saturating_add(1);
            }
            // The `fdt` crate loses what follows one, so a tree that carries any is cleaned first.
            NOP => return Err(BlobError::Nops),
            END if open.is_empty() && !shapes.is_empty() => return Ok(shapes),
            _ => return Err(bad(token_at)),
        }
    }
}

fn shape_of(shapes: &mut [Shape], number: u32) -> Option<&mut Shape> {
    shapes.get_mut(usize::try_from(number).ok()?)
}

/// Checks a node's name at `at`; returns where the next token stands.
fn skip_name(structure: &[u8], at: usize, is_root: bool) -> Result<usize, BlobError> {
    let rest = structure
        .get(at..)
        .ok_or(BlobError::BadStructure { offset: at })?;
    let length = rest
        .iter()
        .take(MAX_NAME.saturating_add(1))
        .position(|&byte| byte == 0)
        .ok_or(BlobError::BadName)?;
    let name = rest.get(..length).ok_or(BlobError::BadName)?;
    let graphic = name
        .iter()
        .all(|byte| byte.is_ascii_graphic() && *byte != b'/');
    if !graphic || (name.is_empty() != is_root) {
        return Err(BlobError::BadName);
    }
    let padded = length
        .checked_add(1)
        .and_then(|bytes| bytes.checked_next_multiple_of(4));
    padded
        .and_then(|bytes| at.checked_add(bytes))
        .ok_or(BlobError::BadName)
}
