//! Why Ballast refuses a board or a configuration: one type, so that boot and the host's check say
//! the same words.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::fmt::{self, Display};
use core::ops::Deref;

/// One mistake, with where it stands and what to do about it.
///
/// Displays as one line: `NODE: PROPERTY = VALUE: PROBLEM; FIX`, less what is empty. One word large, as most of what
/// reads a device tree may return one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(Box<Parts>);

/// What a refusal is made of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parts {
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
        Self(Box::default()).with(|parts| &mut parts.node, &node)
    }

    /// Names the property.
    #[must_use]
    pub fn property(self, property: impl Display) -> Self {
        self.with(|parts| &mut parts.property, &property)
    }

    /// Gives the value as written.
    #[must_use]
    pub fn value(self, value: impl Display) -> Self {
        self.with(|parts| &mut parts.value, &value)
    }

    /// Says what is wrong.
    #[must_use]
    pub fn problem(self, problem: impl Display) -> Self {
        self.with(|parts| &mut parts.problem, &problem)
    }

    /// Says what to do.
    #[must_use]
    pub fn fix(self, fix: impl Display) -> Self {
        self.with(|parts| &mut parts.fix, &fix)
    }

    /// Once for all types that are displayed.
    #[inline(never)]
    fn with(mut self, part: fn(&mut Parts) -> &mut String, text: &dyn Display) -> Self {
        *part(&mut self.0) = text.to_string();
        self
    }
}

impl Deref for Refusal {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
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
