//! A device tree to change: what the firmware does to a board's tree before it hands it over.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail};
use ballast_core::dt::{self, DeviceTree};

/// A node with everything below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name with the unit address; empty at the root.
    pub name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Node>,
}

impl Node {
    /// A node without anything.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn of(node: dt::Node<'_>) -> Self {
        Self {
            // The root's name is empty in the format.
            name: node.name().trim_start_matches('/').to_owned(),
            properties: node
                .properties()
                .map(|p| (p.name.to_owned(), p.value.to_owned()))
                .collect(),
            children: node.children().map(Self::of).collect(),
        }
    }

    /// A property's value.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.properties.iter().find(|(n, _)| n == name)?;
        Some(&found.1)
    }

    /// A property that is one string.
    pub fn string(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?.strip_suffix(b"\0")?).ok()
    }

    /// Sets a property, new or not.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.properties.iter_mut().find(|(n, _)| n == name) {
            Some(property) => property.1 = value,
            None => self.properties.push((name.to_owned(), value)),
        }
    }

    /// Sets a property to a string.
    pub fn set_string(&mut self, name: &str, value: &str) {
        self.set(name, [value.as_bytes(), b"\0"].concat());
    }

    /// Sets a property to cells of 32 bits.
    pub fn set_cells(&mut self, name: &str, cells: &[u32]) {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.set(name, bytes);
    }

    /// Removes a property; whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.properties.len();
        self.properties.retain(|(n, _)| n != name);
        self.properties.len() < before
    }

    /// The child of this name (with its unit address), made if it is not there.
    pub fn child(&mut self, name: &str) -> &mut Node {
        let at = self.children.iter().position(|child| child.name == name);
        let at = at.unwrap_or_else(|| {
            self.children.push(Node::new(name));
            self.children.len() - 1
        });
        &mut self.children[at]
    }

    /// Keeps only those children of which `keep` says so.
    pub fn retain_children(&mut self, keep: impl FnMut(&Node) -> bool) {
        self.children.retain(keep);
    }

    /// The node at a path below this one (no leading slash), or nothing.
    pub fn find(&mut self, path: &str) -> Option<&mut Node> {
        match path.split_once('/') {
            None => self.children.iter_mut().find(|child| child.name == path),
            Some((first, rest)) => self.find(first)?.find(rest),
        }
    }

    /// Calls `f` for every node below this one with its path.
    pub fn walk(&mut self, f: &mut impl FnMut(&str, &mut Node)) {
        self.walk_from("", f);
    }

    fn walk_from(&mut self, path: &str, f: &mut impl FnMut(&str, &mut Node)) {
        for child in &mut self.children {
            let path = format!("{path}/{}", child.name);
            f(&path, child);
            child.walk_from(&path, f);
        }
    }
}

/// A whole tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The root node.
    pub root: Node,
    /// The memory reservation block: start and size, in bytes.
    pub reservations: Vec<(u64, u64)>,
}

impl Tree {
    /// Reads a compiled tree.
    pub fn read(blob: &[u8]) -> Result<Self> {
        let tree = DeviceTree::new(blob).map_err(|error| anyhow!("the device tree {error}"))?;
        Ok(Self {
            root: Node::of(tree.root()),
            reservations: tree
                .reservations()
                .iter()
                .map(|range| (range.start.0, range.size))
                .collect(),
        })
    }

    /// Compiles it (DT specification v0.4, chapter 5).
    pub fn write(&self) -> Vec<u8> {
        let mut reservations = Vec::new();
        for (start, size) in self.reservations.iter().chain(&[(0, 0)]) {
            reservations.extend_from_slice(&start.to_be_bytes());
            reservations.extend_from_slice(&size.to_be_bytes());
        }
        let (mut structure, mut strings) = (Vec::new(), Strings::default());
        write_node(&self.root, &mut structure, &mut strings);
        word(&mut structure, END);

        let structure_at = HEADER_BYTES + reservations.len();
        let strings_at = structure_at + structure.len();
        let total = strings_at + strings.bytes.len();
        let mut blob = Vec::with_capacity(total);
        let header = [
            MAGIC,
            total as u32,
            structure_at as u32,
            strings_at as u32,
            HEADER_BYTES as u32,
            VERSION,
            COMPATIBLE_VERSION,
            0,
            strings.bytes.len() as u32,
            structure.len() as u32,
        ];
        header.iter().for_each(|field| word(&mut blob, *field));
        blob.extend(reservations);
        blob.extend(structure);
        blob.extend(strings.bytes);
        blob
    }

    /// The node at an absolute path; an error that names it where it is not there.
    pub fn node(&mut self, path: &str) -> Result<&mut Node> {
        match path.strip_prefix('/') {
            Some("") => Ok(&mut self.root),
            Some(below) => self
                .root
                .find(below)
                .with_context(|| format!("no node {path}")),
            None => bail!("{path} is no absolute path"),
        }
    }
}

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const COMPATIBLE_VERSION: u32 = 16;
const HEADER_BYTES: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const END: u32 = 9;

/// The block of property names, each once.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    places: HashMap<String, u32>,
}

impl Strings {
    fn place(&mut self, name: &str) -> u32 {
        let end = self.bytes.len() as u32;
        let place = *self.places.entry(name.to_owned()).or_insert(end);
        if place == end {
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.push(0);
        }
        place
    }
}

fn word(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend_from_slice(&value.to_be_bytes());
}

fn write_node(node: &Node, structure: &mut Vec<u8>, strings: &mut Strings) {
    let aligned = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
    word(structure, BEGIN_NODE);
    structure.extend_from_slice(node.name.as_bytes());
    structure.push(0);
    aligned(structure);
    for (name, value) in &node.properties {
        word(structure, PROP);
        word(structure, value.len() as u32);
        word(structure, strings.place(name));
        structure.extend_from_slice(value);
        aligned(structure);
    }
    for child in &node.children {
        write_node(child, structure, strings);
    }
    word(structure, END_NODE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut tree = Tree {
            root: Node::new(""),
            reservations: vec![(0, 0x1000)],
        };
        tree.root.set_string("model", "A board");
        tree.root
            .child("memory@0")
            .set_cells("reg", &[0, 0, 0, 0x4000_0000]);
        tree.root
            .child("soc")
            .child("serial@7e201000")
            .set("clocks", []);
        let mut again = Tree::read(&tree.write()).unwrap();
        assert_eq!(again, tree);
        assert_eq!(again.root.string("model"), Some("A board"));
        again.node("/soc/serial@7e201000").unwrap();
        assert!(again.node("/soc/serial").is_err());
        assert!(again.root.remove("model") && !again.root.remove("model"));
        assert_ne!(again, tree);
    }

    #[test]
    fn the_board_trees_of_the_tests_survive() {
        let path = crate::paths::root().join("hyp/core/tests/data/qemu-virt-gicv3.dtb");
        let tree = Tree::read(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(Tree::read(&tree.write()).unwrap(), tree);
    }
}
