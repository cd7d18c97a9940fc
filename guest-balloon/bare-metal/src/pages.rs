//! The guest's own page allocator, and its record of the pages the balloon holds.
//!
//! One byte of state per page and two counts per 2 MiB block; a search looks at counts first. Pure bookkeeping:
//! it never touches the pages.

use ballast_balloon::abi::{Order, PAGE_SIZE};

/// Pages in a block.
const BLOCK: usize = 512;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Not the allocator's: image, device tree, reserved memory.
    Kept = 0,
    /// In the allocator.
    Free,
    /// Taken out of the allocator or of the record, in the balloon driver's hands.
    Listed,
    /// Held by the balloon: not backed.
    Held,
}

/// Pages of a block in the two states that are searched for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    free: u16,
    held: u16,
}

/// All pages of one range of RAM.
#[derive(Debug)]
pub struct Pages<'a> {
    base: u64,
    states: &'a mut [State],
    blocks: &'a mut [Counts],
    /// Where the last search ended, by state and order.
    hints: [[usize; 3]; 2],
}

impl<'a> Pages<'a> {
    /// Blocks needed for so many pages.
    pub const fn blocks_for(pages: usize) -> usize {
        pages.div_ceil(BLOCK)
    }

    /// All pages kept. `base` is aligned to 2 MiB; `blocks` has [`Self::blocks_for`] elements.
    pub fn new(base: u64, states: &'a mut [State], blocks: &'a mut [Counts]) -> Self {
        states.fill(State::Kept);
        blocks.fill(Counts::default());
        Self {
            base,
            states,
            blocks,
            hints: [[0; 3]; 2],
        }
    }

    /// First address and pages.
    pub fn range(&self) -> (u64, u64) {
        (self.base, self.states.len() as u64)
    }

    /// Pages in a state.
    pub fn count(&self, state: State) -> u64 {
        match state {
            State::Free => self.blocks.iter().map(|block| u64::from(block.free)).sum(),
            State::Held => self.blocks.iter().map(|block| u64::from(block.held)).sum(),
            other => self.states.iter().filter(|&&s| s == other).count() as u64,
        }
    }

    /// Addresses of the pages in a state.
    pub fn addresses(&self, state: State) -> impl Iterator<Item = u64> + '_ {
        let pages = self
            .states
            .iter()
            .enumerate()
            .filter(move |&(_, &s)| s == state);
        pages.map(|(page, _)| self.base + page as u64 * PAGE_SIZE)
    }

    /// Sets the state of a run.
    pub fn set(&mut self, address: u64, order: Order, state: State) {
        let first = self.page(address);
        for page in first..first + order.pages() as usize {
            let block = &mut self.blocks[page / BLOCK];
            match core::mem::replace(&mut self.states[page], state) {
                State::Free => block.free -= 1,
                State::Held => block.held -= 1,
                State::Kept | State::Listed => {}
            }
            match state {
                State::Free => block.free += 1,
                State::Held => block.held += 1,
                State::Kept | State::Listed => {}
            }
        }
    }

    /// A run of pages in state `from`, now [`State::Listed`]. Runs smaller than a block come from blocks that are
    /// broken already, if there are such.
    pub fn pick(&mut self, from: State, order: Order) -> Option<u64> {
        let page = self
            .search(from, order, |count, wanted| {
                count >= wanted && (count < BLOCK || wanted == BLOCK)
            })
            .or_else(|| self.search(from, order, |count, wanted| count >= wanted))?;
        let address = self.base + page as u64 * PAGE_SIZE;
        self.set(address, order, State::Listed);
        Some(address)
    }

    /// A free page with an odd number, now [`State::Listed`], from where the last one was; any other if there is none.
    pub fn pick_scattered(&mut self) -> Option<u64> {
        let hint = self.hints[0][0] * BLOCK;
        let odd = (hint | 1..self.states.len())
            .step_by(2)
            .chain((1..hint).step_by(2));
        let found = odd
            .into_iter()
            .find(|&page| self.states[page] == State::Free);
        let Some(page) = found else {
            return self.pick(State::Free, Order::Page);
        };
        self.hints[0][0] = page / BLOCK;
        let address = self.base + page as u64 * PAGE_SIZE;
        self.set(address, Order::Page, State::Listed);
        Some(address)
    }

    fn search(
        &mut self,
        from: State,
        order: Order,
        eligible: fn(usize, usize) -> bool,
    ) -> Option<usize> {
        let wanted = order.pages() as usize;
        let hint = self.hints[usize::from(from == State::Held)][usize::from(order as u8) / 4];
        for step in 0..self.blocks.len() {
            let block = (hint + step) % self.blocks.len();
            let counts = self.blocks[block];
            let count = if from == State::Held {
                counts.held
            } else {
                counts.free
            };
            if !eligible(count.into(), wanted) {
                continue;
            }
            let end = self.states.len().min((block + 1) * BLOCK);
            let mut runs = self.states[block * BLOCK..end].chunks_exact(wanted);
            if let Some(run) = runs.position(|run| run.iter().all(|&state| state == from)) {
                self.hints[usize::from(from == State::Held)][usize::from(order as u8) / 4] = block;
                return Some(block * BLOCK + run * wanted);
            }
        }
        None
    }

    fn page(&self, address: u64) -> usize {
        ((address - self.base) / PAGE_SIZE) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x4000_0000;

    fn with_pages(pages: usize, test: impl FnOnce(&mut Pages)) {
        let mut states = vec![State::Kept; pages];
        let mut blocks = vec![Counts::default(); Pages::blocks_for(pages)];
        let mut all = Pages::new(BASE, &mut states, &mut blocks);
        for page in 0..pages as u64 {
            all.set(BASE + page * PAGE_SIZE, Order::Page, State::Free);
        }
        test(&mut all);
    }

    #[test]
    fn small_runs_leave_whole_blocks_alone() {
        with_pages(4 * BLOCK, |pages| {
            for _ in 0..20 {
                pages.pick(State::Free, Order::Page).unwrap();
            }
            pages.pick(State::Free, Order::Pages16).unwrap();
            for _ in 0..3 {
                let block = pages.pick(State::Free, Order::Block).unwrap();
                assert!(block.is_multiple_of(Order::Block.bytes()));
            }
            assert_eq!(pages.pick(State::Free, Order::Block), None);
            assert_eq!(pages.count(State::Free), 512 - 20 - 16);
        });
    }

    #[test]
    fn every_page_once_and_back() {
        with_pages(2 * BLOCK + 40, |pages| {
            let mut taken = Vec::new();
            for order in [Order::Block, Order::Pages16, Order::Page] {
                while let Some(address) = pages.pick(State::Free, order) {
                    taken.push((address, order));
                }
            }
            assert_eq!(pages.count(State::Free), 0);
            assert_eq!(
                taken.iter().map(|(_, order)| order.pages()).sum::<u64>(),
                2 * 512 + 40
            );
            for (address, order) in taken {
                pages.set(address, order, State::Held);
            }
            assert_eq!(pages.count(State::Held), 2 * 512 + 40);
            assert_eq!(
                pages.pick(State::Held, Order::Page),
                Some(BASE + 2 * Order::Block.bytes())
            );
        });
    }
}
