//! What tests of several modules need: boards with partitions merged in, archives, kernels.

use vm_fdt::FdtWriter;

use crate::dt::{DeviceTree, Node};

/// `-M virt,virtualization=on,gic-version=3 -cpu cortex-a72 -smp 4 -m 1024`, dumped by QEMU 7.2.
pub const VIRT_V3: &[u8] = include_bytes!("../tests/data/qemu-virt-gicv3.dtb");
/// The same with `gic-version=2`.
pub const VIRT_V2: &[u8] = include_bytes!("../tests/data/qemu-virt-gicv2.dtb");
/// `-smp 2 -m 1536` with GICv3 and `boards/qemu-virt/two-linux.dtso`, merged by fdtoverlay.
pub const TWO_LINUX: &[u8] = include_bytes!("../tests/data/two-linux-gicv3.dtb");

/// A property's value.
#[derive(Clone)]
pub struct Value(Vec<u8>);

/// `<...>`.
pub fn cells(list: &[u32]) -> Value {
    Value(list.iter().flat_map(|cell| cell.to_be_bytes()).collect())
}

/// `"...", "..."`.
pub fn text(list: &[&str]) -> Value {
    Value(
        list.iter()
            .flat_map(|entry| entry.bytes().chain([0]))
            .collect(),
    )
}

/// No value.
pub fn flag() -> Value {
    Value(Vec::new())
}

/// A node to be merged below `/ballast`.
#[derive(Clone)]
pub struct Guest {
    name: String,
    properties: Vec<(String, Value)>,
}

impl Guest {
    /// A guest with what every guest needs: 64 MiB and the kernel "rtos".
    pub fn new(name: &str, number: u32) -> Self {
        let guest = Self {
            name: format!("{name}@{number}"),
            properties: Vec::new(),
        };
        let guest = guest
            .with("compatible", text(&["ballast,guest"]))
            .with("reg", cells(&[number]));
        guest
            .with("kernel", text(&["rtos"]))
            .with("memory-mib", cells(&[64]))
    }

    /// With a property set or replaced.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        match self.properties.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => self.properties.push((name.into(), value)),
        }
        self
    }

    /// Without a property.
    pub fn without(mut self, name: &str) -> Self {
        self.properties.retain(|(other, _)| other != name);
        self
    }

    /// With another node name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }
}

fn copy(fdt: &mut FdtWriter, node: Node<'_>, guests: &[Guest], global: &[(&str, Value)]) {
    let name = if node.parent().is_some() {
        node.name()
    } else {
        ""
    };
    let open = fdt.begin_node(name).unwrap();
    for property in node.properties() {
        fdt.property(property.name, property.value).unwrap();
    }
    for child in node.children() {
        copy(fdt, child, &[], &[]);
    }
    if !global.is_empty() {
        let ballast = fdt.begin_node("ballast").unwrap();
        for (name, value) in global {
            fdt.property(name, &value.0).unwrap();
        }
        for guest in guests {
            let node = fdt.begin_node(&guest.name).unwrap();
            for (name, value) in &guest.properties {
                fdt.property(name, &value.0).unwrap();
            }
            fdt.end_node(node).unwrap();
        }
        fdt.end_node(ballast).unwrap();
    }
    fdt.end_node(open).unwrap();
}

/// `board` with further nodes below its root.
pub fn with_nodes(board: &[u8], nodes: &[Branch]) -> Vec<u8> {
    let tree = DeviceTree::new(board).unwrap();
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    for property in tree.root().properties() {
        fdt.property(property.name, property.value).unwrap();
    }
    tree.root()
        .children()
        .for_each(|child| copy(&mut fdt, child, &[], &[]));
    nodes.iter().for_each(|node| write(&mut fdt, node));
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

/// `board` with `/ballast` having these properties and guests.
pub fn merge_into(board: &[u8], global: &[(&str, Value)], guests: &[Guest]) -> Vec<u8> {
    let tree = DeviceTree::new(board).unwrap();
    let reservations: Vec<_> = tree
        .reservations()
        .iter()
        .map(|range| vm_fdt::FdtReserveEntry::new(range.start.0, range.size).unwrap())
        .collect();
    let mut fdt = FdtWriter::new_with_mem_reserv(&reservations).unwrap();
    copy(&mut fdt, tree.root(), guests, global);
    fdt.finish().unwrap()
}

/// What `/ballast` must have.
pub fn header() -> Vec<(&'static str, Value)> {
    vec![
        ("compatible", text(&["ballast,partitions"])),
        ("#address-cells", cells(&[1])),
        ("#size-cells", cells(&[0])),
    ]
}

/// The GICv3 board of 1 GiB and 4 cores with these guests.
pub fn merge(guests: &[Guest]) -> Vec<u8> {
    merge_into(VIRT_V3, &header(), guests)
}

/// A cpio archive as `cpio -o -H newc` writes it.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data) in files {
        append_member(&mut bytes, name, 0o100_644, data);
    }
    append_member(&mut bytes, "TRAILER!!!", 0, b"");
    bytes
}

/// One member of such an archive.
pub fn append_member(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let bytes = |length: usize| u32::try_from(length).unwrap();
    let fields = [
        1,
        mode,
        0,
        0,
        1,
        0,
        bytes(data.len()),
        0,
        0,
        0,
        0,
        bytes(name.len()) + 1,
        0,
    ];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08X}").bytes());
    }
    archive.extend(name.bytes().chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// An arm64 Image of `bytes` bytes with this header.
pub fn arm64_image(bytes: usize, text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut image = vec![0; bytes];
    for (at, field) in [(8, text_offset), (16, image_size), (24, flags)] {
        image[at..at + 8].copy_from_slice(&field.to_le_bytes());
    }
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image
}

/// A seeded source of mutations: the same on every run.
pub struct Mutator(pub u64);

impl Mutator {
    fn next(&mut self) -> u64 {
        // xorshift64* (Vigna 2016).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    /// Changes `bytes` in one to four places.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let aligned = at & !3;
            match self.below(7) {
                0 | 1 => bytes[at] = self.next().to_le_bytes()[0],
                2 => bytes[at] ^= 1 << self.below(8),
                3 => {
                    let edges = [
                        0,
                        1,
                        2,
                        3,
                        4,
                        9,
                        0x7f,
                        0xffff,
                        0x7fff_ffff,
                        0x8000_0000,
                        u32::MAX,
                    ];
                    let value = edges[self.below(edges.len())];
                    if let Some(word) = bytes.get_mut(aligned..aligned + 4) {
                        word.copy_from_slice(&value.to_be_bytes());
                    }
                }
                4 => {
                    let from = self.below(bytes.len()) & !3;
                    let length = (4 * self.below(16))
                        .min(bytes.len() - from)
                        .min(bytes.len() - aligned);
                    bytes.copy_within(from..from + length, aligned);
                }
                5 => {
                    let length = (4 * self.below(8)).min(bytes.len() - aligned);
                    bytes.drain(aligned..aligned + length);
                }
                _ => bytes.truncate(at.max(1)),
            }
            if bytes.is_empty() {
                return;
            }
        }
    }
}

/// How many mutations a test does: `BALLAST_FUZZ`, else `short`.
pub fn rounds(short: u32) -> u32 {
    std::env::var("BALLAST_FUZZ")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(short)
}

/// A node of a tree made by a test.
pub struct Branch(
    pub &'static str,
    pub Vec<(&'static str, Value)>,
    pub Vec<Branch>,
);

fn write(fdt: &mut FdtWriter, Branch(name, properties, children): &Branch) {
    let open = fdt.begin_node(name).unwrap();
    for (name, value) in properties {
        fdt.property(name, &value.0).unwrap();
    }
    children.iter().for_each(|child| write(fdt, child));
    fdt.end_node(open).unwrap();
}

/// A blob with this root and these reservations (address, size).
pub fn blob(root: &Branch, reservations: &[(u64, u64)]) -> Vec<u8> {
    let entries: Vec<_> = reservations
        .iter()
        .map(|(start, size)| vm_fdt::FdtReserveEntry::new(*start, *size).unwrap())
        .collect();
    let mut fdt = FdtWriter::new_with_mem_reserv(&entries).unwrap();
    write(&mut fdt, root);
    fdt.finish().unwrap()
}
