//! Reading the properties of one guest, with what is wrong collected.

use alloc::format;
use alloc::vec::Vec;

use crate::addr::{Ipa, IpaRange, PAGE_SIZE};
use crate::dt::{Node, Property};
use crate::machine::IPA_LIMIT;
use crate::refusal::Refusal;

/// Reads properties of one guest, collecting what is wrong.
pub(super) struct Reader<'t, 'p> {
    pub(super) node: Node<'t>,
    pub(super) problems: &'p mut Vec<Refusal>,
}

impl<'t> Reader<'t, '_> {
    /// `value`, or its refusal recorded.
    pub(super) fn keep<T>(&mut self, value: Result<T, Refusal>) -> Option<T> {
        value.map_err(|refusal| self.problems.push(refusal)).ok()
    }

    pub(super) fn refuse(
        &mut self,
        property: Property<'t>,
        problem: impl core::fmt::Display,
        fix: impl core::fmt::Display,
    ) {
        self.problems
            .push(property.refuse().problem(problem).fix(fix));
    }

    pub(super) fn number(&mut self, name: &str) -> Option<u32> {
        let value = self.node.u32(name);
        self.keep(value).flatten()
    }

    pub(super) fn string(&mut self, name: &str) -> Option<&'t str> {
        let value = self.node.str(name);
        self.keep(value).flatten()
    }

    /// A property without value.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let Some(property) = self.node.property(name) else {
            return false;
        };
        if !property.value.is_empty() {
            self.refuse(
                property,
                "has a value",
                format!("write {name}; to turn it on, or leave it out"),
            );
        }
        true
    }

    /// An address, page aligned or not.
    pub(super) fn address(&mut self, name: &str) -> Option<Ipa> {
        let property = self.node.property(name)?;
        let value = property.as_u64();
        let address = self.keep(value).map(Ipa)?;
        if address >= IPA_LIMIT {
            self.refuse(
                property,
                "is beyond the guest's address space",
                format!("choose one below {IPA_LIMIT}"),
            );
        }
        Some(address)
    }

    /// Pairs of address and size, two cells each, whole pages.
    pub(super) fn ranges(&mut self, name: &str) -> Vec<IpaRange> {
        let Some(property) = self.node.property(name) else {
            return Vec::new();
        };
        let cells = property.cells();
        let Some(cells) = self.keep(cells) else {
            return Vec::new();
        };
        let cells: Vec<u64> = cells.map(u64::from).collect();
        let (quads, rest) = cells.as_chunks::<4>();
        if !rest.is_empty() || quads.is_empty() {
            let fix = "write an address and a size of two cells each, as in <0x0 0x80000000 0x0 0x100000>";
            self.refuse(property, "is not made of address and size pairs", fix);
            return Vec::new();
        }
        let join = |high: u64, low: u64| (high << 32) | low;
        let pair = |[a, b, c, d]: &[u64; 4]| IpaRange {
            start: Ipa(join(*a, *b)),
            size: join(*c, *d),
        };
        let ranges: Vec<IpaRange> = quads.iter().map(pair).collect();
        for range in &ranges {
            let whole = range.start.is_aligned(PAGE_SIZE) && Ipa(range.size).is_aligned(PAGE_SIZE);
            let inside = range
                .start
                .checked_add(range.size)
                .is_some_and(|end| end <= IPA_LIMIT);
            if !whole || range.size == 0 || !inside {
                let problem = format!(
                    "has a range ({}, {:#x} bytes) that is not of whole pages below {IPA_LIMIT}",
                    range.start, range.size
                );
                self.refuse(property, problem, "use multiples of 0x1000");
            }
        }
        ranges
    }
}
