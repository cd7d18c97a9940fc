//! Who decides how much memory guests have, and how idle memory is taxed.

use alloc::vec::Vec;

use super::reader::Reader;
use crate::dt::Node;
use crate::policy::Mode;
use crate::policy::funding::Tax;
use crate::refusal::Refusal;

/// What `/ballast` says of the resource scheduler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyConfig {
    /// Who decides from the start (`policy`).
    pub mode: Mode,
    /// The tax on idle memory (`idle-tax-percent`).
    pub tax: Tax,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Manual,
            tax: Tax::DEFAULT,
        }
    }
}

pub(super) fn read(root: Node<'_>, problems: &mut Vec<Refusal>) -> PolicyConfig {
    let mut config = PolicyConfig::default();
    let mut reader = Reader {
        node: root,
        problems,
    };
    if let (Some(word), Some(property)) = (reader.string("policy"), root.property("policy")) {
        match Mode::from_name(word) {
            Some(mode) => config.mode = mode,
            None => reader.refuse(
                property,
                "is no policy",
                "choose \"manual\", \"auto\" or \"external\"",
            ),
        }
    }
    if let (Some(percent), Some(property)) = (
        reader.number("idle-tax-percent"),
        root.property("idle-tax-percent"),
    ) {
        match u8::try_from(percent).ok().and_then(Tax::new) {
            Some(tax) => config.tax = tax,
            None => reader.refuse(property, "is no tax", "choose one from 0 to 99"),
        }
    }
    config
}
