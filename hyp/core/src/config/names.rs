//! Property names: which exist, which will, and what a misspelt one was meant to be.

use alloc::format;
use alloc::vec::Vec;

use crate::dt::Node;
use crate::refusal::Refusal;

/// A property of the binding.
pub(super) struct Known {
    name: &'static str,
    /// Whether this version acts on it.
    supported: bool,
}

impl Known {
    pub(super) const fn now(name: &'static str) -> Self {
        Self {
            name,
            supported: true,
        }
    }

    #[cfg(test)]
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) const fn later(name: &'static str) -> Self {
        Self {
            name,
            supported: false,
        }
    }
}

/// Refuses every property of `node` that is not among `known`, or not supported yet.
pub(super) fn check(node: Node<'_>, known: &[Known], problems: &mut Vec<Refusal>) {
    for property in node.properties() {
        // What dtc itself writes.
        if matches!(property.name, "phandle" | "linux,phandle" | "name") {
            continue;
        }
        match known.iter().find(|known| known.name == property.name) {
            Some(Known {
                supported: true, ..
            }) => {}
            Some(Known {
                supported: false, ..
            }) => {
                problems.push(
                    property
                        .refuse()
                        .problem("is not supported yet")
                        .fix("remove it"),
                );
            }
            None => {
                let nearest = known
                    .iter()
                    .filter(|known| known.supported)
                    .map(|known| known.name);
                let fix = nearest
                    .min_by_key(|name| {
                        (
                            !name.starts_with(property.name),
                            distance(name, property.name),
                        )
                    })
                    .filter(|name| is_near(name, property.name))
                    .map_or_else(
                        || "remove it; docs/binding.md lists all properties".into(),
                        |name| format!("did you mean {name}?"),
                    );
                problems.push(
                    property
                        .refuse()
                        .problem("is no property of this binding")
                        .fix(fix),
                );
            }
        }
    }
}

/// Whether `found` can be a slip for `name`: two edits, or one is the start of the other.
fn is_near(name: &str, found: &str) -> bool {
    distance(name, found) <= 2
        || (found.len() >= 3 && name.starts_with(found))
        || found.starts_with(name)
}

/// Longest name compared; the binding's are shorter.
const LONGEST: usize = 32;

/// Levenshtein distance, `_` and `-` being the same; 255 for a name beyond all names.
fn distance(left: &str, right: &str) -> u8 {
    if left.len() > LONGEST || right.len() > LONGEST {
        return u8::MAX;
    }
    let letter = |byte: u8| {
        if byte == b'_' {
            b'-'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    let mut row: heapless::Vec<u8, { LONGEST + 1 }> =
        (0_u8..).take(right.len().saturating_add(1)).collect();
    for (above, from) in left.bytes().enumerate() {
        let mut diagonal = u8::try_from(above).unwrap_or(u8::MAX);
        let mut before = diagonal.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replace = diagonal.saturating_add(u8::from(letter(from) != letter(to)));
            diagonal = *cell;
            *cell = replace
                .min(before.saturating_add(1))
                .min(diagonal.saturating_add(1));
            before = *cell;
        }
    }
    row.last().copied().unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("memory-mib", "memory_mib"), 0);
        assert_eq!(distance("kernel", "kernal"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert!(is_near("memory-mib", "memory") && !is_near("cpus", "xyzzy"));
    }
}
