//! Fake hardware and guests that touch their memory through a fake TLB.
//!
//! Memory is a word array per page, absent pages being zero. Each guest has a TLB that keeps what it
//! has once translated until `invalidate_guest`. Every access checks that the frame it reaches is the
//! guest's own in the frame table, and that it holds what the guest last wrote there: so a missing
//! invalidation, a missing scrub or a frame with two owners shows up as a failed access.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use ballast_abi::{Entry, EntryStatus, Order, Status, function};
use spin::mutex::TicketMutex;

use crate::addr::{BLOCK_SIZE, Ipa, IpaRange, PAGE_SIZE, Pa, PaRange};
use crate::balloon::hw::{Hardware, Window};
use crate::balloon::idle::scrub_step;
use crate::balloon::{GuestMemory, MemoryConfig, Outcome};
use crate::frames::{BootFrames, GuestId, GuestSet, Owner, Pool};
use crate::stage2::Layout;

pub const RAM: Ipa = Ipa(0x4000_0000);

type Page = Box<[u64; 512]>;

#[derive(Default)]
pub struct Machine {
    pub memory: HashMap<u64, Page>,
    /// Per guest: what its cores' TLBs may hold, IPA page to PA page.
    pub tlb: HashMap<usize, HashMap<u64, u64>>,
    /// TLB invalidations are lost: for the test that shows that the checks see it.
    pub lose_invalidations: bool,
    /// Scrubs are lost, likewise.
    pub lose_scrubs: bool,
    /// Copies are lost, likewise.
    pub lose_copies: bool,
    /// A core that relocates is to look at an interrupt after each piece.
    pub is_interrupted: bool,
    pub invalidations: u64,
    pub scrubbed: u64,
    pub copied: u64,
    /// What was done, in order, if that is to be kept.
    pub trace: Option<Vec<Event>>,
}

/// What the hardware was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Words of a page were written: the page's number, the first word's, the words.
    Fill(u64, usize, usize, u64),
    Publish,
    Invalidate(usize),
    /// From page to page.
    Copy(u64, u64),
    FinishCopies,
}

impl Machine {
    fn note(&mut self, event: Event) {
        if let Some(trace) = &mut self.trace {
            trace.push(event);
        }
    }
}

#[derive(Clone)]
pub struct FakeHw {
    pub guest: usize,
    /// The guest's maximum.
    pub max_pages: u64,
    pub machine: Arc<Mutex<Machine>>,
    pub pool: Arc<TicketMutex<Pool>>,
}

impl FakeHw {
    fn note(&self, event: Event) {
        self.machine.lock().unwrap().note(event);
    }

    fn page<R>(&self, page: Pa, f: impl FnOnce(&mut [u64; 512]) -> R) -> R {
        assert!(page.is_aligned(PAGE_SIZE));
        f(self
            .machine
            .lock()
            .unwrap()
            .memory
            .entry(page.page())
            .or_insert_with(|| Box::new([0; 512])))
    }
}

impl Window for FakeHw {
    fn read(&mut self, page: Pa, index: usize) -> u64 {
        self.page(page, |words| words[index])
    }

    fn write(&mut self, page: Pa, index: usize, word: u64) {
        self.page(page, |words| words[index] = word);
    }

    fn fill(&mut self, page: Pa, index: usize, count: usize, first: u64, step: u64) {
        self.note(Event::Fill(page.page(), index, count, first));
        self.page(page, |words| {
            let mut word = first;
            for slot in &mut words[index..index + count] {
                *slot = word;
                word = word.wrapping_add(step);
            }
        });
    }

    fn read_page(&mut self, page: Pa, words: &mut [u64]) {
        self.page(page, |from| words.copy_from_slice(&from[..words.len()]));
    }

    fn write_page(&mut self, page: Pa, words: &[u64]) {
        self.page(page, |to| to[..words.len()].copy_from_slice(words));
    }
}

impl Hardware for FakeHw {
    fn publish_tables(&mut self) {
        self.note(Event::Publish);
    }

    fn copy_page(&mut self, from: Pa, to: Pa) {
        assert!(from.is_aligned(PAGE_SIZE) && to.is_aligned(PAGE_SIZE) && from != to);
        let counted = self.pool.lock().counts().guests[self.guest];
        assert!(
            u64::from(counted) <= self.max_pages,
            "guest {} has {counted} pages while it moves some",
            self.guest
        );
        let mut machine = self.machine.lock().unwrap();
        machine.note(Event::Copy(from.page(), to.page()));
        machine.copied += 1;
        let reaches = |page: u64| {
            let mut tlbs = machine.tlb.values();
            tlbs.any(|tlb| tlb.values().any(|&mapped| mapped == page))
        };
        let is_reachable = reaches(from.page()) || reaches(to.page());
        assert!(
            !is_reachable || machine.lose_invalidations,
            "{from} or {to} is in a TLB while it is copied"
        );
        if machine.lose_copies {
            return;
        }
        match machine.memory.get(&from.page()).cloned() {
            Some(page) => machine.memory.insert(to.page(), page),
            None => machine.memory.remove(&to.page()),
        };
    }

    fn finish_copies(&mut self) {
        self.note(Event::FinishCopies);
    }

    fn counter(&mut self) -> u64 {
        let machine = self.machine.lock().unwrap();
        machine.copied + machine.invalidations
    }

    fn is_interrupted(&mut self) -> bool {
        self.machine.lock().unwrap().is_interrupted
    }

    fn invalidate_guest(&mut self) {
        let mut machine = self.machine.lock().unwrap();
        machine.note(Event::Invalidate(self.guest));
        machine.invalidations += 1;
        if !machine.lose_invalidations {
            machine.tlb.remove(&self.guest);
        }
    }

    fn scrub_watching(&mut self, first: Pa, pages: u16) -> u16 {
        let pages = if self.is_interrupted() { 1 } else { pages };
        self.scrub(first, pages.into());
        pages
    }

    fn scrub(&mut self, first: Pa, pages: usize) {
        assert!(pages >= 1 && first.page() % 512 + pages as u64 <= 512);
        let mut machine = self.machine.lock().unwrap();
        machine.scrubbed += pages as u64;
        if !machine.lose_scrubs {
            for page in first.page()..first.page() + pages as u64 {
                machine.memory.remove(&page);
            }
        }
    }
}

pub struct Guest {
    pub memory: GuestMemory,
    pub hw: FakeHw,
    /// What the guest last wrote at the start of each page it wrote to.
    pub written: BTreeMap<u64, u64>,
    pub epoch: u64,
    /// The guest's own page, as its driver says in HELLO.
    pub granule: Order,
    /// Its RAM, in filling order.
    pub ram: Vec<IpaRange>,
}

impl Guest {
    /// The page of its RAM with this number in filling order.
    pub fn ipa(&self, mut number: u64) -> Ipa {
        for range in &self.ram {
            let pages = range.size / PAGE_SIZE;
            if number < pages {
                return Ipa(range.start.0 + number * PAGE_SIZE);
            }
            number -= pages;
        }
        panic!("beyond RAM")
    }

    /// The list entry of a whole block.
    pub fn block(&self, number: u64) -> Entry {
        Entry::new(self.ipa(number * 512).0, Order::Block)
    }
}

/// A guest to be.
#[derive(Clone, Default)]
pub struct Spec {
    /// Boot, maximum and minimum blocks.
    pub size: GuestSize,
    /// IPA = PA, in these ranges.
    pub identity: Option<Vec<IpaRange>>,
    /// Its frames never move.
    pub realtime: bool,
    /// RAM beside the balloon's.
    pub banks: Vec<IpaRange>,
}

pub struct World {
    pub pool: Arc<TicketMutex<Pool>>,
    pub guests: Vec<Guest>,
    pub machine: Arc<Mutex<Machine>>,
    pub ram: Vec<PaRange>,
    stamp: u64,
}

/// A guest to be: (boot blocks, maximum blocks, minimum blocks).
pub type GuestSize = (u64, u64, u64);

pub fn world(ram_blocks: u64, sizes: &[GuestSize]) -> World {
    let ram = [PaRange {
        start: Pa(0x8000_0000),
        size: ram_blocks * BLOCK_SIZE,
    }];
    world_over(&ram, &[], sizes)
}

pub fn world_over(ram: &[PaRange], held: &[PaRange], sizes: &[GuestSize]) -> World {
    let specs = sizes.iter().map(|&size| Spec {
        size,
        ..Spec::default()
    });
    world_of(ram, held, &specs.collect::<Vec<_>>())
}

pub fn world_of(ram: &[PaRange], held: &[PaRange], specs: &[Spec]) -> World {
    let machine = Arc::new(Mutex::new(Machine::default()));
    let pool = Pool::new(ram, held, BootFrames::Fresh).unwrap();
    let pool = Arc::new(TicketMutex::new(pool));
    let next_table = core::cell::Cell::new(0x10_0000_u64);
    let guests = specs.iter().enumerate().map(|(index, spec)| {
        let (boot, max, min) = spec.size;
        let config = MemoryConfig {
            guest: GuestId::new(index).unwrap(),
            memory_pages: boot * 512,
            min_pages: min * 512,
            identity: spec.identity.is_some(),
            realtime: spec.realtime,
            cpu_targets: false,
        };
        let ram = spec.identity.clone().unwrap_or_else(|| {
            vec![IpaRange {
                start: RAM,
                size: max * BLOCK_SIZE,
            }]
        });
        let layout = Layout {
            ram: &ram,
            banks: &spec.banks,
            devices: &[],
        };
        let memory = GuestMemory::new(config, &layout, |_| {
            next_table.set(next_table.get() + PAGE_SIZE);
            Pa(next_table.get())
        });
        let memory = memory.unwrap();
        let hw = FakeHw {
            guest: index,
            max_pages: memory.max_pages(),
            machine: machine.clone(),
            pool: pool.clone(),
        };
        Guest {
            memory,
            hw,
            written: BTreeMap::new(),
            epoch: 0,
            granule: Order::Page,
            ram,
        }
    });
    let guests: Vec<Guest> = guests.collect();
    for guest in &guests {
        guest.memory.claim_home(&mut pool.lock()).unwrap();
    }
    for rank in 0..GuestMemory::BOOT_RANKS {
        for (guest, spec) in guests.iter().zip(specs) {
            if guest.memory.boot_rank() == rank {
                let (boot, ..) = spec.size;
                assert_eq!(
                    guest.memory.boot_assign(&mut pool.lock(), boot * 512),
                    boot * 512
                );
            }
        }
    }
    World {
        pool,
        guests,
        machine,
        ram: ram.to_vec(),
        stamp: 1,
    }
}

pub fn page(number: u64) -> Entry {
    Entry::new(RAM.0 + number * PAGE_SIZE, Order::Page)
}

/// The 16 KiB from page `number` on.
pub fn quad(number: u64) -> Entry {
    Entry::new(RAM.0 + number * PAGE_SIZE, Order::Pages4)
}

pub fn run(number: u64) -> Entry {
    Entry::new(RAM.0 + number * PAGE_SIZE, Order::Pages16)
}

pub fn block(number: u64) -> Entry {
    Entry::new(RAM.0 + number * BLOCK_SIZE, Order::Block)
}

impl World {
    /// The page of the guest's RAM that serves as its list page in these tests: its first.
    pub fn hello(&mut self, guest: usize) {
        let list = self.guests[guest].ipa(0).0;
        let granule = self.guests[guest].granule as u64;
        let outcome = self.call(guest, function::HELLO, [list, granule, 0, 0]);
        assert_eq!(status(outcome), Status::Success);
        self.guests[guest].epoch = outcome.registers[1];
    }

    pub fn call(&mut self, guest: usize, function: u32, args: [u64; 4]) -> Outcome {
        let Guest { memory, hw, .. } = &mut self.guests[guest];
        let outcome = memory
            .call(&self.pool, hw, function, args)
            .expect("a function of the interface");
        self.tell(outcome.wake, outcome.relocate);
        outcome
    }

    fn tell(&self, wake: GuestSet, relocate: GuestSet) {
        for woken in wake.iter() {
            self.guests[woken.index()].memory.target.bump();
        }
        for holder in relocate.iter() {
            self.guests[holder.index()].memory.ask_to_relocate();
        }
    }

    /// A core of `guest` does one piece of what others want moved, if it was asked to. Whether there is more
    /// to do at once.
    pub fn relocate_step(&mut self, guest: usize) -> bool {
        let Guest { memory, hw, .. } = &mut self.guests[guest];
        if !memory.has_to_relocate() {
            return false;
        }
        let relocated = memory.relocate_step(&self.pool, hw);
        self.tell(relocated.wake, relocated.relocate);
        relocated.more
    }

    /// All that can be moved at this moment.
    pub fn relocate_all(&mut self) {
        for round in 0.. {
            assert!(round < 2_000, "relocation does not end");
            let more =
                (0..self.guests.len()).fold(false, |more, guest| more | self.relocate_step(guest));
            // Nobody has more at once, and nobody was just asked.
            if !more {
                let asked = |world: &Self| {
                    let guests = world.guests.iter();
                    guests
                        .map(|guest| guest.memory.has_to_relocate())
                        .collect::<Vec<_>>()
                };
                let before = asked(self);
                let more = (0..self.guests.len())
                    .fold(false, |more, guest| more | self.relocate_step(guest));
                if !more && asked(self) == before {
                    self.check();
                    return;
                }
            }
        }
    }

    pub fn set_target(&mut self, guest: usize, backed_pages: u64) {
        let memory = &self.guests[guest].memory;
        memory
            .target
            .set_reserve_pages(memory.max_pages() - backed_pages, 0);
    }

    /// One RESERVE or RELEASE over `entries`: the statuses, and how many entries were consumed.
    pub fn try_move(
        &mut self,
        guest: usize,
        function: u32,
        entries: &[Entry],
    ) -> (Vec<EntryStatus>, usize) {
        let list: Vec<u64> = entries.iter().map(|entry| entry.0).collect();
        let first = self.guests[guest].ipa(0);
        let Guest {
            memory, hw, epoch, ..
        } = &mut self.guests[guest];
        let list_page = memory.stage2.translate(hw, first).unwrap();
        hw.write_page(list_page, &list);
        let epoch = *epoch;
        let outcome = self.call(guest, function, [entries.len() as u64, epoch, 0, 0]);
        assert_eq!(status(outcome), Status::Success);
        let consumed = outcome.registers[1] as usize;
        let mut judged = vec![0; entries.len()];
        self.guests[guest].hw.read_page(list_page, &mut judged);
        assert_eq!(
            judged[consumed..],
            list[consumed..],
            "what is not consumed is not touched"
        );
        let statuses = judged[..consumed]
            .iter()
            .map(|&word| Entry(word).status().unwrap())
            .collect();
        for (&entry, &status) in entries.iter().zip(&statuses) {
            if status == EntryStatus::Done {
                self.note_move(guest, function, entry);
            }
        }
        (statuses, consumed)
    }

    /// RESERVE over what is in the list page from before: used entries, which are malformed, and what
    /// an earlier call did not get to.
    pub fn repeat(&mut self, guest: usize) {
        let Guest {
            memory, hw, epoch, ..
        } = &mut self.guests[guest];
        let (list_page, epoch) = (memory.stage2.translate(hw, RAM).unwrap(), *epoch);
        let (mut before, mut after) = ([0; 20], [0; 20]);
        hw.read_page(list_page, &mut before);
        let outcome = self.call(guest, function::RESERVE, [20, epoch, 0, 0]);
        assert_eq!(status(outcome), Status::Success);
        self.guests[guest].hw.read_page(list_page, &mut after);
        for (before, after) in before.into_iter().zip(after) {
            let is_done = Entry(after).status() == Some(EntryStatus::Done);
            if is_done && before != after {
                assert!(Entry(before).is_well_formed());
                self.note_move(guest, function::RESERVE, Entry(before));
            }
        }
    }

    /// What the guest knows of the pages that moved.
    fn note_move(&mut self, guest: usize, function: u32, entry: Entry) {
        let first = entry.ipa() / PAGE_SIZE;
        for page in first..first + entry.order().unwrap().pages() {
            let written = &mut self.guests[guest].written;
            if function == function::RELEASE {
                written.insert(page, 0);
            } else {
                written.remove(&page);
            }
        }
    }

    /// Calls until every entry was consumed, as a driver does.
    pub fn move_all(&mut self, guest: usize, function: u32, entries: &[Entry]) -> Vec<EntryStatus> {
        let mut statuses = Vec::new();
        let mut idle = 0;
        while statuses.len() < entries.len() {
            let upto = entries.len().min(statuses.len() + 512);
            let (more, consumed) = self.try_move(guest, function, &entries[statuses.len()..upto]);
            idle = if consumed == 0 { idle + 1 } else { 0 };
            assert!(idle < 8, "no progress");
            statuses.extend(more);
        }
        statuses
    }

    pub fn reserve(&mut self, guest: usize, entries: &[Entry]) -> Vec<EntryStatus> {
        self.move_all(guest, function::RESERVE, entries)
    }

    pub fn release(&mut self, guest: usize, entries: &[Entry]) -> Vec<EntryStatus> {
        self.move_all(guest, function::RELEASE, entries)
    }

    /// The guest accesses page `number` of its RAM: reads it, checks that, and writes something new.
    /// False if it faults.
    pub fn touch(&mut self, guest: usize, number: u64) -> Result<bool, String> {
        self.stamp += 1;
        let stamp = self.stamp << 8 | guest as u64;
        let ipa = self.guests[guest].ipa(number);
        let first = self.guests[guest].ipa(0);
        let is_identity = self.guests[guest].memory.boot_rank() == 0;
        let Guest {
            memory,
            hw,
            written,
            ..
        } = &mut self.guests[guest];
        let cached = hw
            .machine
            .lock()
            .unwrap()
            .tlb
            .get(&guest)
            .and_then(|tlb| tlb.get(&ipa.page()).copied());
        let pa = match cached {
            Some(page) => Pa::from_page(page),
            None => {
                let Some(pa) = memory.stage2.translate(hw, ipa) else {
                    return Ok(false);
                };
                hw.machine
                    .lock()
                    .unwrap()
                    .tlb
                    .entry(guest)
                    .or_default()
                    .insert(ipa.page(), pa.page());
                pa
            }
        };
        let owner = self.pool.lock().owner(pa);
        let id = GuestId::new(guest).unwrap();
        if owner != Some(Owner::Guest(id, ipa)) {
            return Err(format!("guest {guest} at {ipa} reached {pa} of {owner:?}"));
        }
        if is_identity && pa.0 != ipa.0 {
            return Err(format!("guest {guest} has {ipa} at {pa}"));
        }
        if ipa == first {
            // The list page: Ballast writes there too.
            return Ok(true);
        }
        let last = written.entry(ipa.page()).or_default();
        let found = hw.page(pa, |words| words[511]);
        if found != *last {
            return Err(format!(
                "guest {guest} read {found:#x} at {ipa}, not {last:#x}"
            ));
        }
        *last = stamp;
        hw.page(pa, |words| words[511] = stamp);
        Ok(true)
    }

    pub fn touch_all(&mut self, guest: usize) -> Result<u64, String> {
        let pages = self.guests[guest].memory.max_pages();
        let mut backed = 0;
        for number in 0..pages {
            backed += u64::from(self.touch(guest, number)?);
        }
        Ok(backed)
    }

    /// Scrubs all that is dirty, as parked cores would.
    pub fn scrub_all(&mut self) {
        let hw = &mut self.guests[0].hw.clone();
        while scrub_step(&self.pool, hw, 64).is_some() {}
    }

    /// Resets (or, with 0, stops) a guest; the pages backed then.
    pub fn rebuild(&mut self, guest: usize, goal_pages: u64) -> u64 {
        let Guest { memory, .. } = &self.guests[guest];
        assert!(memory.begin_rebuild(&self.pool, goal_pages));
        for round in 0..5_000 {
            let Guest { memory, hw, .. } = &mut self.guests[guest];
            let progress = memory.rebuild_step(&self.pool, hw);
            self.tell(progress.wake, progress.relocate);
            if round % 16 == 0 {
                self.check();
            }
            for holder in 0..self.guests.len() {
                self.relocate_step(holder);
            }
            if let Some(pages) = progress.backed_pages {
                self.guests[guest].memory.end_load();
                self.check();
                self.forget(guest);
                return pages;
            }
        }
        panic!("the rebuild does not end");
    }

    /// The guest's new life knows nothing; what it finds may be its own, but nobody else's.
    fn forget(&mut self, guest: usize) {
        let max = self.guests[guest].memory.max_pages();
        let ipas: Vec<Ipa> = (0..max)
            .map(|number| self.guests[guest].ipa(number))
            .collect();
        let Guest {
            memory,
            hw,
            written,
            ..
        } = &mut self.guests[guest];
        written.clear();
        for number in 0..memory.max_pages() {
            let ipa = ipas[number as usize];
            if let Some(pa) = memory.stage2.translate(hw, ipa) {
                let found = hw.page(pa, |words| words[511]);
                assert!(
                    found == 0 || found & 0xff == guest as u64,
                    "{found:#x} is another guest's"
                );
                written.insert(ipa.page(), found);
            }
        }
    }

    /// Every frame has one owner, the table, stage 2 and the counters agree, and free zero frames hold zeros.
    pub fn check(&mut self) {
        let pool = self.pool.lock();
        let mut expected = crate::frames::Counts::default();
        for range in &self.ram {
            for number in range.start.page()..range.end().page() {
                let pa = Pa::from_page(number);
                expected.total += 1;
                match pool.owner(pa).expect("RAM") {
                    Owner::Hypervisor => {}
                    Owner::Zero => {
                        expected.zero += 1;
                        let machine = self.machine.lock().unwrap();
                        let zero = machine
                            .memory
                            .get(&number)
                            .is_none_or(|page| page.iter().all(|&word| word == 0));
                        assert!(zero || machine.lose_scrubs, "{pa} is free and not zero");
                    }
                    Owner::Dirty => expected.dirty += 1,
                    Owner::Guest(guest, ipa) => {
                        expected.guests[guest.index()] += 1;
                        let Guest { memory, hw, .. } = &mut self.guests[guest.index()];
                        assert_eq!(
                            memory.stage2.translate(hw, ipa),
                            Some(pa),
                            "{guest:?} {ipa}"
                        );
                    }
                    Owner::Table(guest, _) => expected.tables[guest.index()] += 1,
                }
            }
        }
        assert_eq!(*pool.counts(), expected);
        pool.check_lists();
        for (block, guest, ipa_block) in pool.homes() {
            let entry = self.guests[guest.index()]
                .memory
                .stage2
                .ram_entry(ipa_block);
            assert!(
                entry.is_table() && entry.output().block() == block.block(),
                "{block} is no home"
            );
        }
        for (index, guest) in self.guests.iter_mut().enumerate() {
            let backed = guest.memory.backed_pages().unwrap();
            assert_eq!(backed, u64::from(expected.guests[index]), "guest {index}");
        }
    }

    /// No page of any guest's own is backed in part.
    pub fn check_granules(&mut self) {
        for (index, guest) in self.guests.iter_mut().enumerate() {
            let Guest {
                memory,
                hw,
                granule,
                ram,
                ..
            } = guest;
            let mut is_backed = |ipa| memory.stage2.translate(hw, Ipa(ipa)).is_some();
            for range in ram {
                let end = range.start.0 + range.size;
                for own in (range.start.0..end).step_by(granule.bytes() as usize) {
                    let mut pages = (own..own + granule.bytes()).step_by(PAGE_SIZE as usize);
                    let first = is_backed(own);
                    assert!(
                        pages.all(|page| is_backed(page) == first),
                        "guest {index}: {granule:?} at {own:#x} is there in part"
                    );
                }
            }
        }
    }

    /// Guests that wait for memory.
    pub fn pending(&self) -> GuestSet {
        let mut set = GuestSet::EMPTY;
        for guest in &self.guests {
            if guest.memory.target.is_pending() {
                set.insert(guest.memory.guest());
            }
        }
        set
    }
}

pub fn status(outcome: Outcome) -> Status {
    Status::from_register(outcome.registers[0]).unwrap()
}
