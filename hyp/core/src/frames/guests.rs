//! Guests as the frame table names them.

use crate::limits::MAX_GUESTS;

/// A guest's number in the frame table, `0..MAX_GUESTS`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GuestId(pub(super) u8);

impl GuestId {
    /// The guest with this index; `None` from [`MAX_GUESTS`] on.
    #[must_use]
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_GUESTS {
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// The index, `0..MAX_GUESTS`.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of guests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GuestSet(u16);

impl GuestSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// Adds `guest`.
    pub const fn insert(&mut self, guest: GuestId) {
        self.0 |= 1 << guest.0;
    }

    /// Removes `guest`.
    pub const fn remove(&mut self, guest: GuestId) {
        self.0 &= !(1 << guest.0);
    }

    /// Whether `guest` is in the set.
    #[must_use]
    pub const fn contains(self, guest: GuestId) -> bool {
        self.0 & (1 << guest.0) != 0
    }

    /// Whether nobody is.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members, ascending.
    pub fn iter(self) -> impl Iterator<Item = GuestId> {
        (0..MAX_GUESTS)
            .filter_map(GuestId::new)
            .filter(move |&guest| self.contains(guest))
    }
}
