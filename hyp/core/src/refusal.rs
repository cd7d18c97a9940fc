//! Why Ballast refuses a board or a configuration: one type, so that boot and the host's check say
//! the same words.

use alloc::string::{String, ToString};
use core::fmt::{self, Display};

/// One mistake, with where it stands and what to do about it.
///
/// Displays as one line: `NODE: PROPERTY = VALUE: PROBLEM; FIX`, less what is empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refusal {
    /// Path of the node, or what else the mistake is in ("boot archive").
    pub node: String,
    /// Name of the property; empty if the node itself is the mistake.
    pub property: String,
    /// The value as one would write it in a device-tree source; empty if it is missing.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl Refusal {
    /// A refusal of `node`, to be completed by the methods below.
    #[must_use]
    pub fn new(node: impl Display) -> Self {
        Self {
            node: node.to_string(),
            ..Self::default()
        }
    }

    /// Names the property.
    #[must_use]
    pub fn property(mut self, property: impl Display) -> Self {
        self.property = property.to_string();
        self
    }

    /// Gives the value as written.
    #[must_use]
    pub fn value(mut self, value: impl Display) -> Self {
        self.value = value.to_string();
        self
    }

    /// Says what is wrong.
    #[must_use]
    pub fn problem(mut self, problem: impl Display) -> Self {
        self.problem = problem.to_string();
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Display) -> Self {
        self.fix = fix.to_string();
        self
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.node)?;
        if !self.property.is_empty() {
            f.write_str(&self.property)?;
            if !self.value.is_empty() {
                write!(f, " = {}", self.value)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.problem)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

impl core::error::Error for Refusal {}
