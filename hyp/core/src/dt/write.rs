//! Writing a device tree (DT specification v0.4, chapter 5).
//!
//! Nodes are closures, so a tree is balanced by construction and writing it cannot fail. Boot counts
//! instructions and bytes: this costs a quarter of what a general writer with checks and maps does.

use alloc::vec::Vec;
use core::fmt::Write as _;

use super::check::{BEGIN_NODE, END, END_NODE, MAGIC, PROP};

/// Bytes of the header, the padding behind it included, and of the empty reservation block.
const HEADER_BYTES: u32 = 40;
const RESERVATIONS_BYTES: u32 = 16;
const STRUCTURE_AT: u32 = HEADER_BYTES + RESERVATIONS_BYTES;
const VERSION: u32 = 17;
const COMPATIBLE_VERSION: u32 = 16;

/// A device tree being written. Names of properties live as long as `'n`.
pub struct Writer<'n> {
    /// Header, reservations and structure.
    blob: Vec<u8>,
    strings: Vec<u8>,
    names: Vec<(&'n str, u32)>,
}

/// A length as the format has it. Beyond 4 GiB nothing is ever written.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl<'n> Writer<'n> {
    /// Writes the tree whose root has what `body` writes into `buffer`, whose contents are replaced.
    #[must_use]
    pub fn tree(mut buffer: Vec<u8>, body: impl FnOnce(&mut Self)) -> Vec<u8> {
        buffer.clear();
        buffer.reserve(4096);
        let mut writer = Self {
            blob: buffer,
            strings: Vec::with_capacity(512),
            names: Vec::with_capacity(64),
        };
        writer
            .blob
            .resize(usize::try_from(STRUCTURE_AT).unwrap_or(0), 0);
        writer.node("", body);
        writer.word(END);
        writer.finish()
    }

    fn finish(mut self) -> Vec<u8> {
        let strings_at = length(self.blob.len());
        let strings = length(self.strings.len());
        let header = [
            MAGIC,
            strings_at.saturating_add(strings),
            STRUCTURE_AT,
            strings_at,
            HEADER_BYTES,
            VERSION,
            COMPATIBLE_VERSION,
            0,
            strings,
            strings_at.saturating_sub(STRUCTURE_AT),
        ];
        for (field, value) in self.blob.as_chunks_mut::<4>().0.iter_mut().zip(header) {
            *field = value.to_be_bytes();
        }
        self.blob.append(&mut self.strings);
        self.blob
    }

    fn word(&mut self, value: u32) {
        self.blob.extend_from_slice(&value.to_be_bytes());
    }

    /// Fills up to a whole word.
    fn align(&mut self) {
        let aligned = self.blob.len().next_multiple_of(4);
        self.blob.resize(aligned, 0);
    }

    /// A node called `name` with what `body` writes: properties first, then children.
    pub fn node(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        self.word(BEGIN_NODE);
        self.blob.extend_from_slice(name.as_bytes());
        self.blob.push(0);
        self.align();
        body(self);
        self.word(END_NODE);
    }

    /// A node called `name@address`.
    pub fn node_at(&mut self, name: &str, address: u64, body: impl FnOnce(&mut Self)) {
        let mut full: heapless::String<64> = heapless::String::new();
        // Names here are short constants: they fit.
        let _ = write!(full, "{name}@{address:x}");
        self.node(&full, body);
    }

    /// Opens property `name` with a value of `bytes` bytes.
    fn property(&mut self, name: &'n str, bytes: usize) {
        let known = self
            .names
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, offset)| *offset);
        let offset = known.unwrap_or_else(|| {
            let offset = length(self.strings.len());
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            self.names.push((name, offset));
            offset
        });
        self.word(PROP);
        self.word(length(bytes));
        self.word(offset);
    }

    /// A property of bytes.
    pub fn bytes(&mut self, name: &'n str, value: &[u8]) {
        self.property(name, value.len());
        self.blob.extend_from_slice(value);
        self.align();
    }

    /// A property without value.
    pub fn flag(&mut self, name: &'n str) {
        self.property(name, 0);
    }

    /// A property of 32-bit cells.
    pub fn cells(&mut self, name: &'n str, value: &[u32]) {
        self.property(name, size_of_val(value));
        value.iter().for_each(|cell| self.word(*cell));
    }

    /// A property of numbers of two cells.
    pub fn wide(&mut self, name: &'n str, value: &[u64]) {
        self.property(name, size_of_val(value));
        value
            .iter()
            .for_each(|number| self.blob.extend_from_slice(&number.to_be_bytes()));
    }

    /// A string.
    pub fn text(&mut self, name: &'n str, value: &str) {
        self.texts(name, &[value]);
    }

    /// A list of strings.
    pub fn texts(&mut self, name: &'n str, list: &[&str]) {
        self.property(
            name,
            list.iter().fold(0, |sum, text| {
                sum.saturating_add(text.len()).saturating_add(1)
            }),
        );
        for text in list {
            self.blob.extend_from_slice(text.as_bytes());
            self.blob.push(0);
        }
        self.align();
    }
}
