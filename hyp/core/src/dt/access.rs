//! Typed access to properties.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::check::length_bit;
use super::{Node, Status};
use crate::refusal::Refusal;

/// A property of a node.
#[derive(Clone, Copy, Debug)]
pub struct Property<'t> {
    /// The node it belongs to.
    pub node: Node<'t>,
    /// Its name.
    pub name: &'t str,
    /// Its bytes.
    pub value: &'t [u8],
}

impl<'t> Property<'t> {
    /// A refusal of this property, with its value as written.
    #[must_use]
    pub fn refuse(&self) -> Refusal {
        Refusal::new(self.node.path())
            .property(self.name)
            .value(self.as_source())
    }

    /// The value as 32-bit cells.
    ///
    /// # Errors
    /// The length is no multiple of four.
    pub fn cells(&self) -> Result<impl ExactSizeIterator<Item = u32> + Clone + use<'t>, Refusal> {
        let (cells, rest) = self.value.as_chunks::<4>();
        if rest.is_empty() {
            Ok(cells.iter().map(|cell| u32::from_be_bytes(*cell)))
        } else {
            Err(self
                .refuse()
                .problem("is not made of 32-bit cells")
                .fix("write it as <...>"))
        }
    }

    /// One cell.
    ///
    /// # Errors
    /// The value is not exactly one cell.
    pub fn as_u32(&self) -> Result<u32, Refusal> {
        let mut cells = self.cells()?;
        match (cells.next(), cells.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(self
                .refuse()
                .problem("is not one 32-bit cell")
                .fix("write it as <N>")),
        }
    }

    /// One or two cells, as one number.
    ///
    /// # Errors
    /// The value is neither one nor two cells.
    pub fn as_u64(&self) -> Result<u64, Refusal> {
        let mut cells = self.cells()?;
        match (cells.next(), cells.next(), cells.next()) {
            (Some(value), None, None) => Ok(u64::from(value)),
            (Some(high), Some(low), None) => Ok((u64::from(high) << 32) | u64::from(low)),
            _ => Err(self
                .refuse()
                .problem("is neither one nor two 32-bit cells")
                .fix("write it as <N> or <HIGH LOW>")),
        }
    }

    /// One string.
    ///
    /// # Errors
    /// The value is not one printable, terminated string.
    pub fn as_str(&self) -> Result<&'t str, Refusal> {
        let text = self.value.strip_suffix(&[0]).and_then(printable);
        text.ok_or_else(|| {
            self.refuse()
                .problem("is not one string")
                .fix("write it as \"...\"")
        })
    }

    /// A list of strings.
    ///
    /// # Errors
    /// The value is not made of printable, terminated strings.
    pub fn strings(&self) -> Result<Vec<&'t str>, Refusal> {
        strings(self.value).ok_or_else(|| {
            self.refuse()
                .problem("is not a list of strings")
                .fix("write it as \"...\", \"...\"")
        })
    }

    /// The value as a device-tree source would write it, cut short if it is long.
    #[must_use]
    pub fn as_source(&self) -> String {
        const SHOWN_CELLS: usize = 8;
        const SHOWN_BYTES: usize = 32;
        if self.value.is_empty() {
            return String::new();
        }
        if let Some(list) = strings(self.value) {
            let quoted: Vec<String> = list.iter().map(|text| format!("\"{text}\"")).collect();
            return quoted.join(", ");
        }
        let (cells, rest) = self.value.as_chunks::<4>();
        let (shown, cut) = if rest.is_empty() {
            let cell = |cell: &[u8; 4]| match u32::from_be_bytes(*cell) {
                small @ 0..=0xffff => format!("{small}"),
                large => format!("{large:#x}"),
            };
            (
                cells
                    .iter()
                    .take(SHOWN_CELLS)
                    .map(cell)
                    .collect::<Vec<_>>()
                    .join(" "),
                cells.len() > SHOWN_CELLS,
            )
        } else {
            let bytes = self
                .value
                .iter()
                .take(SHOWN_BYTES)
                .map(|byte| format!("{byte:02x}"))
                .collect::<Vec<_>>();
            return format!(
                "[{}{}]",
                bytes.join(" "),
                if self.value.len() > SHOWN_BYTES {
                    " ..."
                } else {
                    ""
                }
            );
        };
        format!("<{shown}{}>", if cut { " ..." } else { "" })
    }
}

/// `bytes` as text without control characters, NUL included.
fn printable(bytes: &[u8]) -> Option<&str> {
    core::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.bytes().any(|byte| byte.is_ascii_control()))
}

/// `value` as a list of strings, if it is one: each printable and terminated. An empty one counts only
/// where it is the whole value: `<0>` has four NUL bytes.
fn strings(value: &[u8]) -> Option<Vec<&str>> {
    let text = value.strip_suffix(&[0])?;
    let list: Vec<&str> = text
        .split(|&byte| byte == 0)
        .map(printable)
        .collect::<Option<_>>()?;
    (text.is_empty() || list.iter().all(|entry| !entry.is_empty())).then_some(list)
}

impl<'t> Node<'t> {
    /// A refusal of this node.
    #[must_use]
    pub fn refuse(self) -> Refusal {
        Refusal::new(self.path())
    }

    /// The property called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn require(self, name: &str) -> Result<Property<'t>, Refusal> {
        self.property(name).ok_or_else(|| {
            self.refuse()
                .property(name)
                .problem("is missing")
                .fix("add it")
        })
    }

    /// The optional cell `name`.
    ///
    /// # Errors
    /// The property is there and is not one cell.
    pub fn u32(self, name: &str) -> Result<Option<u32>, Refusal> {
        self.property(name)
            .map(|property| property.as_u32())
            .transpose()
    }

    /// The optional number `name` of one or two cells.
    ///
    /// # Errors
    /// The property is there and is neither one nor two cells.
    pub fn u64(self, name: &str) -> Result<Option<u64>, Refusal> {
        self.property(name)
            .map(|property| property.as_u64())
            .transpose()
    }

    /// The optional string `name`.
    ///
    /// # Errors
    /// The property is there and is not one string.
    pub fn str(self, name: &str) -> Result<Option<&'t str>, Refusal> {
        self.property(name)
            .map(|property| property.as_str())
            .transpose()
    }

    /// Whether `compatible` has `name` among its strings.
    #[must_use]
    pub fn is_compatible(self, name: &str) -> bool {
        if self.entry().lengths & length_bit(name.len()) == 0 {
            return false;
        }
        let mut rest = self.compatible();
        loop {
            if rest.get(name.len()) == Some(&0) && rest.starts_with(name.as_bytes()) {
                return true;
            }
            let Some(end) = rest.iter().position(|byte| *byte == 0) else {
                return false;
            };
            rest = rest.get(end.saturating_add(1)..).unwrap_or_default();
        }
    }

    /// Whether its `device_type` says that it is memory.
    #[must_use]
    pub fn is_memory(self) -> bool {
        self.entry().is_memory
    }

    /// Whether the node is in use: no `status`, or "okay" (DT specification 2.3.4).
    #[must_use]
    pub fn is_enabled(self) -> bool {
        self.entry().status != Status::Other
    }
}
