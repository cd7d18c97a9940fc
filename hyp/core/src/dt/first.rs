//! A first look at a blob, before there is memory to index it in: which RAM is nobody's.
//!
//! Reads what `board` reads of memory later, in one pass and without a heap. Of what else may be wrong with a blob than
//! that it cannot be gone through to its end, the full check speaks afterwards.

use super::check::{self, BEGIN_NODE, END, END_NODE, NOP, PROP};
use super::{BlobError, DeviceTree, Entry};
use crate::addr::{PAGE_SIZE, Pa, PaRange};
use crate::board::PA_LIMIT;

/// Most ranges of RAM, and of what is taken of it. A board that has more is refused.
const MAX_RAM: usize = 32;
const MAX_TAKEN: usize = 160;

/// What a first look finds.
#[derive(Default)]
pub struct FirstLook {
    ram: heapless::Vec<PaRange, MAX_RAM>,
    taken: heapless::Vec<PaRange, MAX_TAKEN>,
    /// Something could not be read or kept.
    has_failed: bool,
    nodes: usize,
    /// Bytes of all `reg` and `ranges`.
    address_bytes: usize,
}

/// The children of the root that matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Memory,
    Reserved,
    Chosen,
    Cores,
    Other,
}

impl Section {
    fn of(name: &[u8]) -> Self {
        // By the first letter first: most nodes are none of these.
        if !matches!(name.first(), Some(b'c' | b'm' | b'r')) {
            return Self::Other;
        }
        match name.split(|byte| *byte == b'@').next() {
            Some(b"memory") => Self::Memory,
            Some(b"reserved-memory") => Self::Reserved,
            Some(b"chosen") => Self::Chosen,
            Some(b"cpus") => Self::Cores,
            _ => Self::Other,
        }
    }
}

/// Properties of the node at hand: of several of one name the first, as everywhere.
#[derive(Clone, Copy, Default)]
struct Node<'a> {
    reg: Option<&'a [u8]>,
    device_type: Option<&'a [u8]>,
    status: Option<&'a [u8]>,
    release: Option<&'a [u8]>,
    initrd_start: Option<&'a [u8]>,
    initrd_end: Option<&'a [u8]>,
    address_cells: Option<&'a [u8]>,
    size_cells: Option<&'a [u8]>,
}

impl<'a> Node<'a> {
    /// Takes the property whose name `name` begins with.
    fn read(&mut self, name: &[u8], value: &'a [u8]) {
        // By the first letter first: most properties are none of these.
        let (is_it, property) = match name.first() {
            Some(b'r') => (name.first_chunk() == Some(b"reg\0"), &mut self.reg),
            Some(b'd') => {
                let is_it = name.first_chunk() == Some(b"device_type\0");
                (is_it, &mut self.device_type)
            }
            Some(b's') => {
                let is_it = name.first_chunk() == Some(b"status\0");
                (is_it, &mut self.status)
            }
            Some(b'c') => {
                let is_it = name.first_chunk() == Some(b"cpu-release-addr\0");
                (is_it, &mut self.release)
            }
            Some(b'l') if name.first_chunk() == Some(b"linux,initrd-start\0") => {
                (true, &mut self.initrd_start)
            }
            Some(b'l') => {
                let is_it = name.first_chunk() == Some(b"linux,initrd-end\0");
                (is_it, &mut self.initrd_end)
            }
            Some(b'#') if name.first_chunk() == Some(b"#address-cells\0") => {
                (true, &mut self.address_cells)
            }
            Some(b'#') => {
                let is_it = name.first_chunk() == Some(b"#size-cells\0");
                (is_it, &mut self.size_cells)
            }
            _ => return,
        };
        if is_it {
            property.get_or_insert(value);
        }
    }

    fn is_memory(&self) -> bool {
        self.device_type == Some(b"memory\0")
    }

    fn is_enabled(&self) -> bool {
        self.status
            .is_none_or(|status| matches!(status, b"okay\0" | b"ok\0"))
    }

    /// What its children's addresses are made of.
    fn cells(&self) -> Cells {
        let width = |value: Option<&[u8]>, usual| {
            value.map_or(usual, |value| {
                check::word(value, 0).map_or(usize::MAX, super::index)
            })
        };
        Cells(width(self.address_cells, 2), width(self.size_cells, 1))
    }
}

/// A number of one or two cells.
fn number(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => check::word(value, 0).map(u64::from),
        8 => Some(u64::from_be_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

/// Cells of addresses and sizes below a node (DT specification 2.3.5).
#[derive(Clone, Copy)]
struct Cells(usize, usize);

impl FirstLook {
    /// Looks at `blob`.
    ///
    /// # Errors
    /// Its header is none, its reservations do not end, or its structure is malformed.
    pub fn new(blob: &[u8]) -> Result<Self, BlobError> {
        let sections = check::sections(blob)?;
        let mut look = Self::default();
        for entry in sections.reservations.as_chunks::<16>().0 {
            look.take(check::reservation(entry));
        }
        let mut offset = 0;
        look.walk(sections.structure, sections.strings, &mut offset)
            .ok_or(BlobError::BadStructure { offset })?;
        Ok(look)
    }

    /// Goes through the structure from `offset` on, where it is left: at the end, or at what is malformed (`None`).
    fn walk(&mut self, structure: &[u8], strings: &[u8], offset: &mut usize) -> Option<()> {
        let mut depth = 0_usize;
        let mut section = Section::Other;
        // Of the root, and of the child of it that is open.
        let (mut root, mut bus) = (Cells(2, 1), Cells(2, 1));
        let mut node = Node::default();
        loop {
            let at = *offset;
            let token = check::word(structure, at)?;
            match token {
                BEGIN_NODE => {
                    self.note(depth, section, node, root, bus);
                    node = Node::default();
                    self.nodes = self.nodes.saturating_add(1);
                    depth = depth.checked_add(1)?;
                    let name = check::name(structure.get(at.checked_add(4)?..)?)?;
                    if depth == 2 {
                        section = Section::of(name);
                        bus = Cells(2, 1);
                    }
                    *offset = at.checked_add(name.len())?.checked_add(8)? & !3;
                }
                END_NODE => {
                    self.note(depth, section, node, root, bus);
                    node = Node::default();
                    depth = depth.checked_sub(1)?;
                    *offset = at.checked_add(4)?;
                }
                PROP => {
                    let (head, rest) = structure.get(at..)?.split_first_chunk()?;
                    let [_, length, name] = check::words(head).map(super::index);
                    let value = rest.get(..length)?;
                    *offset = at.checked_add(length)?.checked_add(15)? & !3;
                    let name = strings.get(name..)?;
                    node.read(name, value);
                    if name.first() == Some(&b'r')
                        && (name.first_chunk() == Some(b"reg\0")
                            || name.first_chunk() == Some(b"ranges\0"))
                    {
                        self.address_bytes = self.address_bytes.saturating_add(length);
                    }
                    match depth {
                        1 => root = node.cells(),
                        2 if section == Section::Reserved => {
                            bus = node.cells();
                            // What lies there is not where `reg` says.
                            self.has_failed |=
                                !value.is_empty() && name.first_chunk() == Some(b"ranges\0");
                        }
                        _ => {}
                    }
                }
                NOP => *offset = at.checked_add(4)?,
                END => return Some(()),
                _ => return None,
            }
        }
    }

    /// What the properties of a node at `depth` come to.
    fn note(&mut self, depth: usize, section: Section, node: Node<'_>, root: Cells, bus: Cells) {
        match (depth, section) {
            (2, Section::Chosen) => {
                let number = |value: Option<&[u8]>| value.and_then(number);
                if let (Some(start), Some(end)) =
                    (number(node.initrd_start), number(node.initrd_end))
                {
                    let size = end.saturating_sub(start);
                    let start = Pa(start);
                    self.take(PaRange { start, size });
                }
            }
            (2, _) if (section == Section::Memory || node.is_memory()) && node.is_enabled() => {
                self.ranges(node.reg, root, |look, range| {
                    // What lies beyond is refused when there is memory to say so in.
                    if range.end().0 <= PA_LIMIT {
                        look.has_failed |= look.ram.push(range).is_err();
                    }
                });
            }
            (3, Section::Reserved) if node.is_enabled() => {
                self.ranges(node.reg, bus, Self::take);
            }
            (3, Section::Cores) => {
                if let Some(start) = node.release.and_then(number).map(Pa) {
                    self.take(PaRange { start, size: 8 });
                }
            }
            _ => {}
        }
    }

    /// The ranges that `reg` lists.
    fn ranges(&mut self, reg: Option<&[u8]>, cells: Cells, with: impl Fn(&mut Self, PaRange)) {
        let Some(reg) = reg else { return };
        if !matches!(cells, Cells(1..=2, 1..=2)) {
            self.has_failed = true;
            return;
        }
        let (address, size) = (cells.0.saturating_mul(4), cells.1.saturating_mul(4));
        for entry in reg.chunks_exact(address.saturating_add(size)) {
            let (start, size) = entry.split_at(address);
            if let (Some(start), Some(size)) = (number(start).map(Pa), number(size)) {
                with(self, PaRange { start, size });
            }
        }
    }

    fn take(&mut self, range: PaRange) {
        if range.size != 0 {
            self.has_failed |= self.taken.push(range).is_err();
        }
    }

    /// Bytes of heap that indexing the tree and reading the board out of it take, in whole pages.
    #[must_use]
    pub fn heap_bytes(&self) -> u64 {
        /// What is read of the board, and refusals: 5 KiB of QEMU virt's.
        const BASE: usize = 16 << 10;
        /// All devices' ranges and the blocks that they lie in, while these lists grow: 70 bytes and less for each.
        const PER_ADDRESS_BYTE: usize = 10;
        let nodes = self.nodes.min(check::MAX_NODES);
        let allocation = |size: usize| nodes.saturating_mul(size).next_power_of_two();
        let ranges = self.address_bytes.saturating_mul(PER_ADDRESS_BYTE);
        let bytes = allocation(size_of::<Entry<'_>>())
            .saturating_add(allocation(size_of::<(u32, u32)>()))
            .saturating_add(BASE.saturating_add(ranges.max(BASE)));
        u64::try_from(bytes)
            .unwrap_or(u64::MAX)
            .next_multiple_of(PAGE_SIZE)
    }

    /// Checks and indexes `blob`, at which this was a look, as [`DeviceTree::new`], in memory of its size.
    ///
    /// # Errors
    /// What is wrong with the blob.
    pub fn index(self, blob: &[u8]) -> Result<DeviceTree<'_>, BlobError> {
        check::index(blob, self.nodes.min(check::MAX_NODES))
    }

    /// The place nearest behind or before `image` for `size` bytes, whole pages, that nothing in the tree and none of
    /// `held` has. `None` if there is none, or the tree says more of its memory than could be kept.
    #[must_use]
    pub fn place(&self, size: u64, image: PaRange, held: &[PaRange]) -> Option<PaRange> {
        let taken = || self.taken.iter().chain(held).copied();
        let is_free = |place: &PaRange| {
            let fits = |ram: &PaRange| ram.start <= place.start && place.end() <= ram.end();
            self.ram.iter().any(fits) && !taken().any(|range| range.overlaps(*place))
        };
        // The lowest free place in RAM begins where RAM does, or where something ends.
        let begins = self.ram.iter().map(|ram| ram.start);
        let places = begins
            .chain(taken().map(|range| range.end()))
            .filter_map(|at| at.align_up(PAGE_SIZE))
            .map(|start| PaRange { start, size })
            .filter(is_free);
        places
            .min_by_key(|place| place.start.0.abs_diff(image.end().0))
            .filter(|_| !self.has_failed)
    }
}
