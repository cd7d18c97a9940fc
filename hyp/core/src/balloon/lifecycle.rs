//! A guest's memory outside of hypercalls: its reset and its end.

use core::sync::atomic::Ordering;

use spin::mutex::TicketMutex;

use super::budget::{self, Budget};
use super::hw::Hardware;
use super::reserve::Reserve;
use super::{GuestMemory, Ledger, Use};
use crate::addr::{PAGES_PER_BLOCK, Pa};
use crate::frames::handover::Unmapped;
use crate::frames::{GuestSet, Look, Obstacle, Pool};
use crate::stage2::{Descriptor, Memory};

/// A rebuild in progress: first what is kept moves to the start of RAM and the rest goes to the
/// pool, then what is missing comes from the pool.
pub(super) struct Rebuild {
    goal_blocks: u32,
    /// Banks seen to so far.
    banks: usize,
    /// Blocks looked at so far, in filling order.
    scanned: u32,
    /// Blocks backed from the start of RAM on. Where IPA = PA, known only once those missing are sought.
    kept: u32,
    /// Where IPA = PA: blocks sought so far.
    sought: u32,
    /// All that it gets is there.
    is_filled: bool,
}

/// Looks at the guest's queue after each step, at most: all frames of two blocks.
const LOOKS_AFTER_STEP: u32 = 4;

/// How far a rebuild is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Set when it is finished: the pages that are backed, from the start of RAM on. 0 if a bank of
    /// extra RAM could not be backed: the guest cannot run.
    pub backed_pages: Option<u64>,
    /// Guests whose sequence is to be bumped.
    pub wake: GuestSet,
    /// Guests that are to move frames out of this one's way, as in
    /// [`Outcome`](super::Outcome::relocate).
    pub relocate: GuestSet,
}

impl GuestMemory {
    /// Begins to make the memory what a boot finds: `goal_pages` from the start of RAM on (0: the
    /// guest stops for good). All its vCPUs must have stopped, and hypercalls are DENIED until the
    /// rebuild is finished. The driver is forgotten. Returns false, and has done nothing, while a call is in
    /// progress.
    ///
    /// The guest's whole blocks stay its own, with what they hold, and move together (where IPA = PA they
    /// stay in place); pages of split blocks go to the pool, and so does what it has too much.
    pub fn begin_rebuild(&self, pool: &TicketMutex<Pool>, goal_pages: u64) -> bool {
        let Some(mut ledger) = self.ledger.try_lock() else {
            return false;
        };
        {
            let mut pool = pool.lock();
            pool.clear_wanting(self.guest());
            pool.clear_stalled(self.guest());
        }
        self.is_loading.store(true, Ordering::Relaxed);
        // The next life's first call need not make way for what moves no more.
        self.relocation_turn.store(0, Ordering::Relaxed);
        ledger.transfer = None;
        ledger.gather = super::gather::Gather::Idle;
        self.set_driver(&mut ledger, None);
        ledger.epoch = ledger.epoch.wrapping_add(1);
        let goal_blocks = (goal_pages.min(self.max_pages) / PAGES_PER_BLOCK as u64) as u32;
        ledger.rebuild = Some(Rebuild {
            goal_blocks,
            banks: 0,
            scanned: 0,
            kept: 0,
            sought: 0,
            is_filled: false,
        });
        true
    }

    /// The guest has been loaded, or could not be: from now on its frames may move again.
    pub fn end_load(&self) {
        self.is_loading.store(false, Ordering::Release);
    }

    pub(super) fn is_loading(&self) -> bool {
        self.is_loading.load(Ordering::Acquire)
    }

    /// Does a bounded piece of the rebuild. VTTBR_EL2 holds the guest's VMID, as for any
    /// [`Hardware::invalidate_guest`].
    pub fn rebuild_step(&self, pool: &TicketMutex<Pool>, hw: &mut impl Hardware) -> Progress {
        let unfinished = Progress {
            backed_pages: None,
            wake: GuestSet::EMPTY,
            relocate: GuestSet::EMPTY,
        };
        let Some(mut ledger) = self.ledger.try_lock() else {
            return unfinished;
        };
        let Ledger {
            batch,
            tables,
            backed_pages,
            rebuild,
            ..
        } = &mut *ledger;
        let Some(state) = rebuild else {
            return Progress {
                backed_pages: Some(*backed_pages),
                wake: GuestSet::EMPTY,
                relocate: GuestSet::EMPTY,
            };
        };
        let unmapped = Unmapped::new(self.guest(), batch);
        let mut work = Reserve {
            memory: self,
            pool,
            hw,
            unmapped,
            tables,
            backed_pages,
            budget: Budget::new(0),
            least: 1,
        };
        let compact = work.compact(state);
        work.flush();
        let Reserve {
            mut budget,
            hw,
            backed_pages,
            ..
        } = work;
        let mut relocate = GuestSet::EMPTY;
        state.is_filled = state.is_filled
            || compact && self.fill(state, pool, hw, &mut budget, backed_pages, &mut relocate);
        // What it has just left by itself goes to the next holder: all of it, before the end.
        let (mut look, mut looked) = (Look::GoOn, 0);
        for _ in 0..LOOKS_AFTER_STEP {
            look = pool
                .lock()
                .next_part(self.guest(), &mut relocate, &mut looked);
            if look != Look::GoOn {
                break;
            }
        }
        let done = state.is_filled && look != Look::GoOn;
        let (wake, stalled) = {
            let mut pool = pool.lock();
            (pool.take_wanting(), pool.take_stalled())
        };
        let relocate = relocate.union(stalled);
        if !done {
            return Progress {
                wake,
                relocate,
                ..unfinished
            };
        }
        // Blocks have moved: nothing of the old translation may be left when the guest runs again.
        hw.invalidate_guest();
        let has_banks = state.banks == self.banks.len();
        let backed_pages = Some(if has_banks { *backed_pages } else { 0 });
        *rebuild = None;
        Progress {
            backed_pages,
            wake,
            relocate,
        }
    }

    /// Fills up from the pool; false while there is more to do.
    fn fill(
        &self,
        state: &mut Rebuild,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        budget: &mut Budget,
        backed_pages: &mut u64,
        relocate: &mut GuestSet,
    ) -> bool {
        while let Some(&bank) = self
            .banks
            .get(state.banks)
            .filter(|_| state.goal_blocks != 0)
        {
            if !self.stage2.has_bank(bank) {
                match self.find_block(bank.ipa_block, Use::Bank, pool, hw, budget, relocate) {
                    Found::Block(pa) => self.stage2.map_bank(bank, pa),
                    Found::Nothing => return true,
                    Found::Held | Found::NotYet => return false,
                }
            }
            state.banks += 1;
        }
        // Where only certain blocks will do, those that are free come first, and the others' holders all begin
        // to make way: what moves then goes to no block that is sought next.
        while self.config.identity && state.sought < state.goal_blocks {
            if let Some(ipa_block) = self.nth_block(state.sought)
                && !self.stage2.ram_entry(ipa_block).is_valid()
            {
                match self.find_block(ipa_block, Use::Ram, pool, hw, budget, relocate) {
                    Found::Block(pa) => {
                        let entry = Descriptor::block(pa, Memory::Normal);
                        self.stage2.map(ipa_block, entry);
                        *backed_pages += PAGES_PER_BLOCK as u64;
                    }
                    Found::NotYet => return false,
                    Found::Held | Found::Nothing => {}
                }
            }
            state.sought += 1;
        }
        while state.kept < state.goal_blocks
            && let Some(ipa_block) = self.nth_block(state.kept)
        {
            if self.stage2.ram_entry(ipa_block).is_valid() {
                state.kept += 1;
                continue;
            }
            match self.find_block(ipa_block, Use::Ram, pool, hw, budget, relocate) {
                Found::Block(pa) => {
                    let entry = Descriptor::block(pa, Memory::Normal);
                    self.stage2.map(ipa_block, entry);
                    *backed_pages += PAGES_PER_BLOCK as u64;
                    state.kept += 1;
                }
                Found::Held => return false,
                Found::Nothing if self.config.identity => {
                    // What lies behind the gap goes: RAM is backed up to one place.
                    state.goal_blocks = state.kept;
                    state.scanned = state.kept;
                    return false;
                }
                Found::Nothing => return true,
                Found::NotYet => return false,
            }
        }
        true
    }

    /// A whole zero block for `ipa_block`, scrubbed here if need be.
    fn find_block(
        &self,
        ipa_block: u32,
        use_for: Use,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        budget: &mut Budget,
        relocate: &mut GuestSet,
    ) -> Found {
        loop {
            if !budget.covers(budget::ENTRY) {
                return Found::NotYet;
            }
            budget.spend(budget::ENTRY);
            let mut section = pool.lock();
            if section.free_for(self.guest()) < PAGES_PER_BLOCK as u32
                && section.kept_from(self.guest()) != 0
            {
                return Found::Nothing;
            }
            if let Some(pa) = self.take_block(&mut section, ipa_block, use_for) {
                return Found::Block(pa);
            }
            if !self.has_dirty_block(&section, ipa_block, use_for) {
                if let Some(pa) = self.home_block(ipa_block, use_for) {
                    return self.await_home(pa, &mut section, relocate);
                }
                // What another core is scrubbing will be there soon, and so will what is on its way to make
                // room, unless that is stuck.
                let is_coming =
                    section.available() < section.counts().free() && !section.is_stalled();
                return if is_coming {
                    Found::NotYet
                } else {
                    Found::Nothing
                };
            }
            let most = budget.scrub_pages();
            let Some(dirty) = (most != 0)
                .then(|| self.claim_dirty_block(&mut section, ipa_block, use_for, most))
                .flatten()
            else {
                return Found::NotYet;
            };
            drop(section);
            budget.spend(u32::from(dirty.pages()) * budget::SCRUB_PAGE);
            self.stats.scrubbed_pages.add(u64::from(dirty.pages()));
            let zero = dirty.scrub(hw);
            pool.lock().put_zero(zero);
        }
    }
}

impl GuestMemory {
    /// The one block that would do is not free: whether it will be.
    fn await_home(&self, pa: Pa, pool: &mut Pool, relocate: &mut GuestSet) -> Found {
        match pool.want_home(pa, self.guest()) {
            Obstacle::Passing => Found::NotYet,
            Obstacle::Holder(Some(holder)) => {
                relocate.insert(holder);
                Found::Held
            }
            Obstacle::Holder(None) if pool.is_stalled() => Found::Nothing,
            Obstacle::Holder(None) => Found::Held,
            Obstacle::Fixed => Found::Nothing,
        }
    }
}

/// What a search for a block came to.
enum Found {
    /// This block, which is the guest's now.
    Block(Pa),
    /// There is none.
    Nothing,
    /// There is one, as soon as others have moved out of it.
    Held,
    /// There may be, with the next step.
    NotYet,
}

impl<H: Hardware> Reserve<'_, H> {
    /// Moves whole blocks together and unmaps the rest; false while there is more to do.
    fn compact(&mut self, state: &mut Rebuild) -> bool {
        while let Some(&bank) = self
            .memory
            .banks
            .get(state.banks)
            .filter(|_| state.goal_blocks == 0)
        {
            if !self.budget.covers(budget::ENTRY + budget::RUN_MOST) {
                return false;
            }
            self.budget
                .spend(budget::ENTRY + u32::from(bank.pages) * budget::LOOK_PAGE);
            if self.unmapped.room() == 0 {
                self.flush();
            }
            if let Some(pa) = self.memory.stage2.unmap_bank(bank) {
                let guest = self.memory.guest();
                self.pool.lock().end_beside(guest, PAGES_PER_BLOCK as u32);
                self.unmapped.push_block(pa);
            }
            state.banks += 1;
        }
        while let Some(from) = self.memory.nth_block(state.scanned) {
            if !self.budget.covers(budget::UNMAP_TABLE) {
                return false;
            }
            self.budget.spend(budget::LOOK_BLOCK);
            let entry = self.memory.stage2.ram_entry(from);
            if entry.is_table() {
                if self.unmapped.room() == 0 {
                    self.flush();
                }
                self.unmap_table(from, entry.output());
            } else if entry.is_block() {
                if self.memory.config.identity && state.scanned < state.goal_blocks {
                    // It stays where it is.
                } else if !self.memory.config.identity
                    && state.kept < state.goal_blocks
                    && let Some(to) = self.memory.nth_block(state.kept)
                {
                    self.move_block(from, to, entry);
                    state.kept += 1;
                } else {
                    self.budget.spend(budget::ENTRY);
                    self.open_gib(from);
                    self.memory.stage2.unmap(from);
                    if self.unmapped.room() == 0 {
                        self.flush();
                    }
                    self.unmapped.push_block(entry.output());
                    *self.backed_pages -= PAGES_PER_BLOCK as u64;
                }
            }
            state.scanned += 1;
        }
        true
    }

    fn move_block(&mut self, from: u32, to: u32, entry: Descriptor) {
        if from == to {
            return;
        }
        self.budget.spend(budget::ENTRY);
        self.open_gib(from);
        self.memory.stage2.unmap(from);
        self.memory.stage2.map(to, entry);
        self.pool.lock().move_block(entry.output(), to);
    }
}
