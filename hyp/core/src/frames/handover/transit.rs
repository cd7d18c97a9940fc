//! Pages that change their frames and not their owner: in transition, *still* once no TLB can hold them, copied,
//! and mapped where they are now.
//!
//! What the guest accesses of them meanwhile faults and is done again.

use crate::addr::{PAGE_SIZE, Pa};
use crate::balloon::hw::{Hardware, Window};
use crate::stage2::{Descriptor, Memory};

/// Pages of one level-3 table whose entries say "in transition"; TLBs may still hold what they said.
#[must_use = "the guest faults on these pages until their entries are made"]
pub struct Transit {
    table: Pa,
    first: u16,
    pages: u16,
    from: Pa,
}

/// The same, and no TLB holds anything of them: the frames are nobody's to write.
#[must_use = "the guest faults on these pages until their entries are made"]
pub struct Still(Transit);

/// The same, with their contents in frames from `to` on, at the point of coherency.
#[must_use = "the guest faults on these pages until their entries are made"]
pub struct Copied {
    transit: Transit,
    to: Pa,
}

impl Transit {
    /// Breaks the entries of `pages` pages from number `first` on, which map the frames from `from` on.
    pub(crate) fn begin(
        table: Pa,
        first: u16,
        from: Pa,
        pages: u16,
        window: &mut impl Window,
    ) -> Self {
        let entry = Descriptor::IN_TRANSITION.0;
        window.fill(table, usize::from(first), usize::from(pages), entry, 0);
        Self {
            table,
            first,
            pages,
            from,
        }
    }

    /// Invalidates the guest's translations on all cores.
    pub(crate) fn invalidate(self, hw: &mut impl Hardware) -> Still {
        hw.invalidate_guest();
        Still(self)
    }
}

impl Still {
    /// Copies the pages to the frames from `to` on, which are the guest's and mapped nowhere.
    pub(crate) fn copy(self, to: Pa, hw: &mut impl Hardware) -> Copied {
        let Self(transit) = self;
        for page in 0..u64::from(transit.pages) {
            let offset = page * PAGE_SIZE;
            hw.copy_page(Pa(transit.from.0 + offset), Pa(to.0 + offset));
        }
        hw.finish_copies();
        Copied { transit, to }
    }
}

impl Copied {
    /// Makes the entries. The frames that the pages were in are to be given back.
    pub(crate) fn make(self, hw: &mut impl Hardware) {
        let Self { transit, to } = self;
        let entry = Descriptor::page(to, Memory::Normal).0;
        let (first, pages) = (usize::from(transit.first), usize::from(transit.pages));
        hw.fill(transit.table, first, pages, entry, PAGE_SIZE);
        hw.publish_tables();
    }
}
