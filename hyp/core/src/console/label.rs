//! Who is who on the console: a guest's number (the key that selects it) and its name.

use core::fmt;

use crate::limits::MAX_GUESTS;

/// Longest name kept, that of a device-tree node (DT spec 0.4, 2.2.1).
pub const NAME_BYTES: usize = 31;

/// The name Ballast's own lines carry. A guest of this name is shown as `guest`.
pub const OWN_NAME: &str = "ballast";

/// A guest's number and name as the operator sees and types them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    number: u8,
    name: heapless::String<NAME_BYTES>,
}

impl Label {
    /// A label for guest `number` (1 to 9). The name keeps its letters, digits and `,._+-`, what a
    /// node's name may have; anything else, or Ballast's own name, would deceive and is replaced.
    #[must_use]
    pub fn new(number: u8, name: &str) -> Self {
        let name = if name.is_empty() || name.eq_ignore_ascii_case(OWN_NAME) {
            "guest"
        } else {
            name
        };
        let name = name
            .chars()
            .map(|c| match c {
                c if c.is_ascii_alphanumeric() || ",._+-".contains(c) => c,
                _ => '?',
            })
            .take(NAME_BYTES)
            .collect();
        Self { number, name }
    }

    /// The guest's number.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The guest's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// `1 linux-a`.
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.name)
    }
}

/// The labels of all guests by guest index.
#[derive(Debug, Clone, Default)]
pub struct Labels(heapless::Vec<Label, MAX_GUESTS>);

impl Labels {
    /// No guests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next guest; one beyond [`MAX_GUESTS`] is ignored (admission has refused it). A name
    /// that another guest has already (`linux@1`, `linux@2`) gets its number behind it.
    pub fn push(&mut self, mut label: Label) {
        if self.iter().any(|other| other.name == label.name) {
            let suffix = [b'@', label.number.wrapping_add(b'0')];
            label.name.truncate(NAME_BYTES.saturating_sub(suffix.len()));
            for byte in suffix {
                let _ = label.name.push(char::from(byte));
            }
        }
        let _ = self.0.push(label);
    }

    /// How many guests there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are no guests.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The label of the guest with this index.
    #[must_use]
    pub fn get(&self, guest: usize) -> Option<&Label> {
        self.0.get(guest)
    }

    /// The index of the guest with this number.
    #[must_use]
    pub fn by_number(&self, number: u8) -> Option<usize> {
        self.0.iter().position(|label| label.number == number)
    }

    /// The index of the guest that an operator's word names: by number, else by name.
    #[must_use]
    pub fn find(&self, word: &str) -> Option<usize> {
        word.parse()
            .ok()
            .and_then(|number| self.by_number(number))
            .or_else(|| self.0.iter().position(|label| label.name() == word))
    }

    /// All labels in index order.
    pub fn iter(&self) -> core::slice::Iter<'_, Label> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = core::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// `1 linux-a, 2 linux-b`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            fmt::Display::fmt(label, f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_neither_deceive_nor_overflow() {
        assert_eq!(Label::new(1, "Ballast").name(), "guest");
        assert_eq!(Label::new(1, "").name(), "guest");
        assert_eq!(Label::new(1, "a] \x1b[2J").name(), "a????2J");
        assert_eq!(Label::new(1, &"x".repeat(99)).name().len(), NAME_BYTES);
    }

    #[test]
    fn no_two_guests_have_one_name() {
        let mut labels = Labels::new();
        for number in 1..=9 {
            labels.push(Label::new(number, &"linux".repeat(7)));
        }
        let names: std::collections::HashSet<&str> = labels.iter().map(Label::name).collect();
        assert_eq!(names.len(), 9);
        assert!(
            labels
                .get(1)
                .is_some_and(|label| label.name().ends_with("@2"))
        );
    }

    #[test]
    fn guests_are_found_by_number_and_by_name() {
        let mut labels = Labels::new();
        labels.push(Label::new(2, "b"));
        labels.push(Label::new(1, "7"));
        assert_eq!(labels.find("2"), Some(0));
        assert_eq!(labels.find("b"), Some(0));
        assert_eq!(labels.find("1"), Some(1));
        assert_eq!(labels.find("7"), Some(1));
        assert_eq!(labels.find("3"), None);
        assert_eq!(labels.to_string(), "2 b, 1 7");
    }
}
