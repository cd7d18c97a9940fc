//! Reading device trees (the board's, with the partitions merged in) and writing them (the guests').
//!
//! The only module that knows the format. A blob is checked and indexed in one
//! pass (`check`), after which no lookup parses anything again and nothing can panic, whatever the
//! blob held. Everything read through [`Node`] either has the type asked for or is a
//! [`Refusal`] that names node and property.

mod access;
mod bus;
mod check;
mod first;
#[cfg(test)]
mod tests;
mod write;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub use access::Property;
pub use bus::{BusRange, Interrupt, InterruptKind};
pub use first::FirstLook;
pub use write::Writer;

use crate::addr::PaRange;
use crate::refusal::Refusal;

/// Why a blob is no device tree Ballast reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobError {
    /// Shorter than its header or than the header says.
    TooShort,
    /// Does not start with 0xd00dfeed.
    BadMagic,
    /// Not version 17 or compatible with it.
    BadVersion,
    /// A block lies outside the blob or is not aligned.
    BadLayout,
    /// The memory reservation block does not end, or is beyond 64 entries.
    BadReservations,
    /// A name is not terminated, too long, empty or not printable ASCII.
    BadName,
    /// A token stands where it may not, or its data leaves the structure block.
    BadStructure {
        /// Offset of the token in the structure block, in bytes.
        offset: usize,
    },
    /// Deeper than 32 levels.
    TooDeep,
    /// More than 4096 nodes.
    TooManyNodes,
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("is cut short"),
            Self::BadMagic => f.write_str("does not start with the magic number 0xd00dfeed"),
            Self::BadVersion => f.write_str("is not of version 17"),
            Self::BadLayout => f.write_str("has a block outside itself"),
            Self::BadReservations => {
                f.write_str("has a memory reservation block that does not end")
            }
            Self::BadName => f.write_str("has a malformed name"),
            Self::BadStructure { offset } => write!(
                f,
                "is malformed at offset {offset:#x} of its structure block"
            ),
            Self::TooDeep => f.write_str("is nested deeper than 32 levels"),
            Self::TooManyNodes => f.write_str("has more than 4096 nodes"),
        }
    }
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        Self::new("device tree")
            .problem(error)
            .fix("compile it anew with dtc")
    }
}

/// What a node's `status` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    /// It has none: it is in use.
    None,
    Okay,
    Other,
}

/// A node. Small, as trees are indexed before there is memory for more: the rest is read from the blob.
#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    /// Offset of its properties in the structure block.
    properties: u32,
    /// Offset of its `compatible`, which is searched for most; 0 if it has none.
    compatible: u32,
    /// Lengths of the strings in it: bit n modulo 32 for one of n bytes. Most searches need no more.
    lengths: u32,
    status: Status,
    /// Its `device_type` is "memory".
    is_memory: bool,
    parent: u32,
    /// Number of the first node that is not below it.
    end: u32,
}

impl Entry<'_> {
    const MISSING: Self = Self {
        name: "",
        properties: 0,
        compatible: 0,
        lengths: 0,
        status: Status::None,
        is_memory: false,
        parent: 0,
        end: 0,
    };
}

/// A checked and indexed device tree.
#[derive(Default)]
pub struct DeviceTree<'a> {
    structure: &'a [u8],
    strings: &'a str,
    nodes: Vec<Entry<'a>>,
    /// (phandle, node number), in tree order.
    phandles: Vec<(u32, u32)>,
    reservations: Vec<PaRange>,
}

/// A node number or property number as an index.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl<'a> DeviceTree<'a> {
    /// Checks and indexes `blob`, which may be longer than the tree.
    ///
    /// # Errors
    /// What is wrong with the blob. No blob makes this panic.
    pub fn new(blob: &'a [u8]) -> Result<Self, BlobError> {
        check::index(blob, 0)
    }

    /// The root node.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node {
            tree: self,
            number: 0,
        }
    }

    /// The memory reservation block (`/memreserve/`).
    #[must_use]
    pub fn reservations(&self) -> &[PaRange] {
        &self.reservations
    }

    /// The node at `path`, which is absolute or starts with an alias. A component without a unit
    /// address matches a node with one if nothing else has that name. Anything behind a `:` is ignored, as
    /// in `stdout-path`.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Node<'_>> {
        let path = path.split(':').next().unwrap_or(path);
        if let Some(rest) = path.strip_prefix('/') {
            return self.descend(self.root(), rest);
        }
        let (alias, rest) = path.split_once('/').unwrap_or((path, ""));
        let target = self
            .root()
            .child("aliases")?
            .property(alias)?
            .as_str()
            .ok()?;
        let start = self.descend(self.root(), target.strip_prefix('/')?)?;
        self.descend(start, rest)
    }

    fn descend<'t>(&'t self, start: Node<'t>, path: &str) -> Option<Node<'t>> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(start, |node, part| node.child(part))
    }

    /// The node with this phandle.
    #[must_use]
    pub fn by_phandle(&self, phandle: u32) -> Option<Node<'_>> {
        let (_, number) = self.phandles.iter().find(|(value, _)| *value == phandle)?;
        Some(Node {
            tree: self,
            number: *number,
        })
    }

    /// Every node, parents before children.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        let count = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        (0..count).map(|number| Node { tree: self, number })
    }

    fn entry(&self, number: u32) -> &Entry<'a> {
        // Numbers come from this tree alone, so the default is never seen.
        self.nodes.get(index(number)).unwrap_or(&Entry::MISSING)
    }
}

/// A node's properties, read off the structure block: offset of the name in the strings, and value.
struct Raw<'t> {
    structure: &'t [u8],
    at: usize,
}

impl<'t> Iterator for Raw<'t> {
    type Item = (usize, &'t [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.structure.get(self.at..)?;
            // At the end of the block there is no room for a property.
            let (head, rest) = rest.split_first_chunk::<12>()?;
            let [token, length, name] = check::words(head);
            match token {
                check::PROP => {
                    let value = rest.get(..index(length))?;
                    let taken = index(length).checked_add(15)? & !3;
                    self.at = self.at.checked_add(taken)?;
                    return Some((index(name), value));
                }
                check::NOP => self.at = self.at.checked_add(4)?,
                _ => return None,
            }
        }
    }
}

/// A node of a [`DeviceTree`].
#[derive(Clone, Copy)]
pub struct Node<'t> {
    tree: &'t DeviceTree<'t>,
    number: u32,
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.tree, other.tree) && self.number == other.number
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl<'t> Node<'t> {
    fn entry(self) -> &'t Entry<'t> {
        self.tree.entry(self.number)
    }

    /// The tree this node belongs to.
    #[must_use]
    pub fn tree(self) -> &'t DeviceTree<'t> {
        self.tree
    }

    /// Name with the unit address; `/` for the root.
    #[must_use]
    pub fn name(self) -> &'t str {
        self.entry().name
    }

    /// Name without the unit address.
    #[must_use]
    pub fn base_name(self) -> &'t str {
        let name = self.name();
        let end = name.bytes().position(|byte| byte == b'@');
        end.and_then(|end| name.get(..end)).unwrap_or(name)
    }

    /// Absolute path.
    #[must_use]
    pub fn path(self) -> String {
        match self.parent() {
            None => String::from("/"),
            Some(parent) => {
                let mut path = parent.path();
                if !path.ends_with('/') {
                    path.push('/');
                }
                path.push_str(self.name());
                path
            }
        }
    }

    /// The parent; `None` for the root.
    #[must_use]
    pub fn parent(self) -> Option<Node<'t>> {
        (self.number != 0).then(|| Node {
            tree: self.tree,
            number: self.entry().parent,
        })
    }

    /// Children in tree order.
    pub fn children(self) -> impl Iterator<Item = Node<'t>> {
        let tree = self.tree;
        let end = self.entry().end;
        let mut next = self.number.saturating_add(1);
        core::iter::from_fn(move || {
            let number = (next < end).then_some(next)?;
            // The end of a node's descendants is past the node itself, so this ends.
            next = tree.entry(number).end.max(number.saturating_add(1));
            Some(Node { tree, number })
        })
    }

    /// The child called `name`, exactly; else, for a name without unit address, the first child
    /// with that base name.
    #[must_use]
    pub fn child(self, name: &str) -> Option<Node<'t>> {
        let mut by_base_name = None;
        for child in self.children() {
            match child.name().strip_prefix(name) {
                Some("") => return Some(child),
                Some(unit) if by_base_name.is_none() && unit.starts_with('@') => {
                    by_base_name = Some(child)
                }
                _ => {}
            }
        }
        by_base_name
    }

    fn raw(self) -> Raw<'t> {
        Raw {
            structure: self.tree.structure,
            at: index(self.entry().properties),
        }
    }

    /// Properties in tree order.
    pub fn properties(self) -> impl Iterator<Item = Property<'t>> {
        let strings = self.tree.strings;
        self.raw().filter_map(move |(name, value)| {
            Some(Property {
                node: self,
                name: strings.get(name..)?.split('\0').next()?,
                value,
            })
        })
    }

    /// The value of `compatible`; empty if there is none.
    fn compatible(self) -> &'t [u8] {
        let found = Raw {
            structure: self.tree.structure,
            at: index(self.entry().compatible),
        }
        .next();
        found.map_or(&[], |(_, value)| value)
    }

    /// The property called `name`.
    #[must_use]
    pub fn property(self, name: &str) -> Option<Property<'t>> {
        let strings = self.tree.strings;
        // The check has found every name to be terminated.
        let is_called = |at: usize| {
            let found = strings.as_bytes().get(at..).unwrap_or_default();
            found.get(name.len()) == Some(&0) && found.starts_with(name.as_bytes())
        };
        let (at, value) = self.raw().find(|(at, _)| is_called(*at))?;
        Some(Property {
            node: self,
            name: strings.get(at..)?.get(..name.len())?,
            value,
        })
    }
}
