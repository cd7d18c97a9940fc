//! Guests with IPA = PA get exactly their own frames back, whoever holds them.

use ballast_abi::{Entry, EntryStatus, Order, Status, function};
use proptest::prelude::*;

use super::world::*;
use crate::addr::{BLOCK_SIZE, Ipa, IpaRange, Pa, PaRange};
use crate::balloon::GuestMemory;
use crate::balloon::hw::{Hardware, Window};
use crate::frames::{GuestId, LOOK_FRAMES, Look, Owner};
use crate::stage2::{Descriptor, Verdict};

pub const BASE: u64 = 0x8000_0000;
/// The guest with IPA = PA.
const A: usize = 0;
/// An ordinary one.
const B: usize = 1;

pub fn blocks(first: u64, count: u64) -> IpaRange {
    IpaRange {
        start: Ipa(BASE + first * BLOCK_SIZE),
        size: count * BLOCK_SIZE,
    }
}

pub fn ordinary(size: GuestSize) -> Spec {
    Spec {
        size,
        ..Spec::default()
    }
}

pub fn identity(size: GuestSize, ram: &[IpaRange]) -> Spec {
    Spec {
        size,
        identity: Some(ram.to_vec()),
        ..Spec::default()
    }
}

pub fn world_with(ram_blocks: u64, specs: &[Spec]) -> World {
    let ram = [PaRange {
        start: Pa(BASE),
        size: ram_blocks * BLOCK_SIZE,
    }];
    let mut world = world_of(&ram, &[], specs);
    for guest in 0..specs.len() {
        world.hello(guest);
        world.touch_all(guest).unwrap();
        let max = world.guests[guest].memory.max_pages();
        world.set_target(guest, max);
    }
    world
}

/// A has given all but its first block, and B has taken all that there is.
fn lent(specs: &[Spec], ram_blocks: u64) -> World {
    let mut world = world_with(ram_blocks, specs);
    let most = world.guests[A].memory.max_pages() / 512;
    let given: Vec<Entry> = (1..most)
        .map(|number| world.guests[A].block(number))
        .collect();
    assert_eq!(
        world.reserve(A, &given),
        vec![EntryStatus::Done; given.len()]
    );
    let backed = world.guests[B].memory.backed_pages().unwrap() / 512;
    let most = world.guests[B].memory.max_pages() / 512;
    let taken: Vec<Entry> = (backed..most).map(block).collect();
    world.release(B, &taken);
    world.touch_all(B).unwrap();
    world.check();
    world
}

/// B has A's second block as its third, and one block is free.
fn one_lent() -> World {
    let mut world = world_with(
        4,
        &[identity((2, 2, 0), &[blocks(0, 2)]), ordinary((2, 3, 0))],
    );
    let lent = world.guests[A].block(1);
    world.reserve(A, &[lent]);
    world.release(B, &[block(2)]);
    world.reserve(B, &[block(1)]);
    world.touch_all(B).unwrap();
    world
}

fn release_block(world: &mut World, guest: usize, number: u64) -> EntryStatus {
    let entry = world.guests[guest].block(number);
    world.release(guest, &[entry])[0]
}

/// The entry of B's block with this number.
fn entry_of(world: &World, number: u64) -> Descriptor {
    let ipa_block = (RAM.block() + number) as u32;
    world.guests[B].memory.stage2.ram_entry(ipa_block)
}

#[test]
fn what_was_lent_comes_home() {
    let ram = [blocks(0, 2), blocks(4, 2)];
    let mut world = lent(&[identity((4, 4, 1), &ram), ordinary((2, 5, 1))], 8);
    // B has blocks 2, 3, 6, 7 and one of A's: unclaimed ones first.
    assert_eq!(world.guests[B].memory.backed_pages(), Some(5 * 512));
    assert_eq!(world.pool.lock().counts().free(), 2 * 512);
    let held: Vec<u64> = (1..4)
        .filter(|&number| release_block(&mut world, A, number) == EntryStatus::NoMemory)
        .collect();
    assert_eq!(held.len(), 1, "the others were free");
    // B gives one of its own, so there is a place to move to.
    assert_eq!(world.reserve(B, &[block(1)]), [EntryStatus::Done]);
    world.call(A, function::TARGET, [0; 4]);
    assert!(!world.pending().contains(GuestId::new(A).unwrap()));
    world.relocate_all();
    assert!(
        world.pending().contains(GuestId::new(A).unwrap()),
        "A hears of it"
    );
    world.touch_all(B).unwrap();
    assert_eq!(release_block(&mut world, A, held[0]), EntryStatus::Done);
    world.check();
    assert_eq!(world.touch_all(A), Ok(4 * 512));
    assert_eq!(world.touch_all(B), Ok(4 * 512));
    let is_block = |number| entry_of(&world, number).is_block();
    assert!(
        [0, 2, 3, 4].into_iter().all(is_block),
        "whole blocks stay whole"
    );
    assert_eq!(world.guests[B].memory.stats.relocated_pages.get(), 512);
}

/// Each entry is broken, the TLBs are invalidated, the contents copied and complete, and only then is it made
/// (DDI 0487, D8.16.1).
#[test]
fn breaks_before_it_makes() {
    let mut world = one_lent();
    let held = entry_of(&world, 2).output();
    assert_eq!(held, Pa(BASE + BLOCK_SIZE));
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
    world.machine.lock().unwrap().trace = Some(Vec::new());
    world.relocate_all();
    let trace = world.machine.lock().unwrap().trace.take().unwrap();
    let moved = entry_of(&world, 2).output();
    assert_eq!(moved, Pa(BASE + 3 * BLOCK_SIZE));
    let table = moved.page() + 511;
    let mut pages = 0;
    let position = |event: &dyn Fn(&Event) -> bool, from: usize| {
        trace[from..].iter().position(event).map(|at| at + from)
    };
    for (at, event) in trace.iter().enumerate() {
        let Event::Copy(from, to) = *event else {
            continue;
        };
        assert_eq!(from - held.page(), to - moved.page());
        let index = (from - held.page()) as usize;
        pages += 1;
        let broken = trace[..at].iter().rposition(|event| {
            matches!(*event, Event::Fill(page, first, count, 0x80_0000_0000_0000)
                if page == table && (first..first + count).contains(&index))
        });
        let invalidated = trace[..at]
            .iter()
            .rposition(|event| *event == Event::Invalidate(B))
            .unwrap();
        if index != 511 {
            assert!(broken.unwrap() < invalidated);
            let complete = position(&|event| *event == Event::FinishCopies, at).unwrap();
            let made = position(
                &|event| matches!(*event, Event::Fill(page, first, count, _) if page == table && (first..first + count).contains(&index)),
                at,
            );
            assert!(complete < made.unwrap());
            let published = position(&|event| *event == Event::Publish, made.unwrap());
            assert!(published.is_some());
        }
    }
    assert_eq!(pages, 512);
    world.touch_all(B).unwrap();
}

/// The checks see what relocation must not do.
#[test]
fn lost_steps_are_seen() {
    for fault in 0..2 {
        let mut world = one_lent();
        assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
        let mut machine = world.machine.lock().unwrap();
        (machine.lose_copies, machine.lose_invalidations) = (fault == 0, fault == 1);
        drop(machine);
        world.relocate_all();
        assert!(world.touch_all(B).is_err(), "fault {fault} was not seen");
    }
}

/// Split blocks, tables, pages away from home: all of it moves.
#[test]
fn pieces_move_out_too() {
    let mut world = lent(
        &[
            identity((4, 4, 0), &[blocks(0, 4)]),
            ordinary((1, 4, 0)),
            ordinary((1, 2, 0)),
        ],
        6,
    );
    // B's four blocks are 4 and three of A's. It breaks two of them up, and C gets pages out of them.
    let odd: Vec<Entry> = (0..256).map(|n| page(512 + 2 * n)).collect();
    assert!(
        world
            .reserve(B, &odd)
            .iter()
            .all(|&status| status == EntryStatus::Done)
    );
    let some: Vec<Entry> = (0..100).map(|n| page(1024 + 3 * n)).collect();
    world.reserve(B, &some);
    let pages: Vec<Entry> = (512..700).map(page).collect();
    assert!(
        world
            .release(2, &pages)
            .iter()
            .all(|&status| status == EntryStatus::Done)
    );
    world.touch_all(2).unwrap();
    world.check();
    for number in 1..4 {
        assert_eq!(release_block(&mut world, A, number), EntryStatus::NoMemory);
    }
    // What cannot move waits for memory: B gives a block, into which another moves.
    world.relocate_all();
    assert!(world.guests[B].memory.has_to_relocate());
    assert_eq!(world.reserve(B, &[block(3)]), [EntryStatus::Done]);
    world.relocate_all();
    let back = |world: &mut World| {
        (1..4)
            .filter(|&number| release_block(world, A, number) == EntryStatus::Done)
            .count()
    };
    // The pages that C has in the block that B has left find no room.
    assert!(world.guests[2].memory.has_to_relocate());
    assert_eq!(back(&mut world), 0);
    world.touch_all(B).unwrap();
    world.touch_all(2).unwrap();
    // C goes: what B has fits into two blocks and a part of a third.
    assert_eq!(world.rebuild(2, 0), 0);
    world.relocate_all();
    assert_eq!(back(&mut world), 2);
    assert_eq!(world.touch_all(A), Ok(3 * 512));
    world.touch_all(B).unwrap();
}

/// A call of the holder between two pieces does not matter, whatever it does to what is moving.
#[test]
fn holders_may_do_as_they_like_meanwhile() {
    for case in 0..5 {
        let mut world = one_lent();
        assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
        world.machine.lock().unwrap().is_interrupted = true;
        for _ in 0..6 {
            assert!(world.relocate_step(B));
            world.check();
            world.touch_all(B).unwrap();
        }
        match case {
            0 => assert_eq!(world.reserve(B, &[block(2)]), [EntryStatus::Done]),
            1 => {
                let pages: Vec<Entry> = (0..512).map(|n| page(1024 + n)).collect();
                world.reserve(B, &pages);
            }
            2 => {
                world.reserve(B, &[page(1024 + 3), page(1024 + 511), run(1024 + 256)]);
                world.release(B, &[page(1024 + 3), run(1024 + 256)]);
            }
            3 => {
                world.rebuild(B, 512);
                world.hello(B);
            }
            _ => {
                world.rebuild(A, 1024);
                world.hello(A);
            }
        }
        world.check();
        world.touch_all(B).unwrap();
        world.machine.lock().unwrap().is_interrupted = false;
        world.relocate_all();
        world.touch_all(B).unwrap();
        release_block(&mut world, A, 1);
        assert_eq!(world.touch_all(A), Ok(1024), "case {case}");
        world.check();
        assert!(!world.guests[B].memory.has_to_relocate());
    }
}

/// What never moves is never where it would have to; and a stopped guest keeps its frames.
#[test]
fn fixed_frames_and_stopped_guests() {
    let realtime = Spec {
        size: (2, 2, 2),
        realtime: true,
        ..Spec::default()
    };
    let mut world = world_with(
        8,
        &[
            identity((4, 4, 0), &[blocks(2, 4)]),
            ordinary((1, 3, 0)),
            realtime,
        ],
    );
    let claimed = |pa: Pa| (2..6).contains(&((pa.0 - BASE) / BLOCK_SIZE));
    for number in 0..1024 {
        let ipa = world.guests[2].ipa(number);
        let guest = &world.guests[2];
        let pa = guest
            .memory
            .stage2
            .translate(&mut guest.hw.clone(), ipa)
            .unwrap();
        assert!(!claimed(pa));
    }
    let lent: Vec<Entry> = (1..4).map(|number| world.guests[A].block(number)).collect();
    world.reserve(A, &lent);
    let given: Vec<Entry> = (512..1024).map(page).collect();
    world.reserve(2, &given[1..]);
    world.release(B, &[block(1)]);
    // Its own free frames and what is unclaimed are all it can have.
    world.release(2, &given[1..]);
    for number in 0..1024 {
        let ipa = world.guests[2].ipa(number);
        let guest = &world.guests[2];
        if let Some(pa) = guest.memory.stage2.translate(&mut guest.hw.clone(), ipa) {
            assert!(!claimed(pa));
        }
    }
    world.check();
    // A stops; its first block stays its own until it is built anew.
    assert_eq!(
        world.pool.lock().owner(Pa(BASE + 2 * BLOCK_SIZE)),
        Some(Owner::Guest(
            GuestId::new(A).unwrap(),
            Ipa(BASE + 2 * BLOCK_SIZE)
        ))
    );
    assert_eq!(
        world.rebuild(A, 4 * 512),
        4 * 512,
        "reset fetches what is lent"
    );
    world.hello(A);
    world.touch_all(A).unwrap();
    world.touch_all(B).unwrap();
}

#[test]
fn smaller_than_blocks_is_refused_both_ways() {
    let mut world = world_with(4, &[identity((2, 3, 0), &[blocks(0, 3)])]);
    let first = world.guests[A].ipa(512).0;
    for order in [Order::Page, Order::Pages16] {
        let entry = [Entry::new(first, order)];
        assert_eq!(world.reserve(A, &entry), [EntryStatus::WrongOrder]);
        assert_eq!(world.release(A, &entry), [EntryStatus::WrongOrder]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(usize, Vec<(u64, u8)>),
    Release(usize, Vec<(u64, u8)>),
    Touch(usize, Vec<u64>),
    Reset(usize, u64),
    Relocate(usize),
    Scrub(u16),
    Interrupt(bool),
}

/// Pages of each guest's maximum.
const MOST: u64 = 4 * 512;

fn step() -> impl Strategy<Value = Step> {
    let guest = 0..4_usize;
    let number = prop_oneof![0..8_u64, 500..520_u64, 1020..1040_u64, 0..MOST];
    let order = prop_oneof![1 => Just(0_u8), 1 => Just(4), 2 => Just(9)];
    let entries = prop::collection::vec((number, order), 1..24);
    prop_oneof![
        4 => (guest.clone(), entries.clone()).prop_map(|(guest, entries)| Step::Reserve(guest, entries)),
        5 => (guest.clone(), entries).prop_map(|(guest, entries)| Step::Release(guest, entries)),
        3 => (guest.clone(), prop::collection::vec(0..MOST, 1..20)).prop_map(|(guest, pages)| Step::Touch(guest, pages)),
        1 => (guest.clone(), 1..=4_u64).prop_map(|(guest, blocks)| Step::Reset(guest, blocks)),
        6 => guest.prop_map(Step::Relocate),
        1 => (1..600_u16).prop_map(Step::Scrub),
        1 => any::<bool>().prop_map(Step::Interrupt),
    ]
}

fn is_alive(world: &World, guest: usize) -> bool {
    let guest = &world.guests[guest];
    let list = guest.ipa(0);
    guest
        .memory
        .stage2
        .translate(&mut guest.hw.clone(), list)
        .is_some()
}

fn apply(world: &mut World, step: Step) -> Result<(), TestCaseError> {
    let fail = TestCaseError::fail;
    let entries = |world: &World, guest: usize, entries: &[(u64, u8)]| {
        let entry = |&(number, order): &(u64, u8)| {
            let order = match order {
                0 => Order::Page,
                4 => Order::Pages16,
                _ => Order::Block,
            };
            let number = number - number % order.pages();
            Entry::new(world.guests[guest].ipa(number).0, order)
        };
        entries.iter().map(entry).collect::<Vec<_>>()
    };
    match step {
        Step::Reserve(guest, list) if is_alive(world, guest) => {
            let list = entries(world, guest, &list);
            world.reserve(guest, &list);
        }
        Step::Release(guest, list) if is_alive(world, guest) => {
            let list = entries(world, guest, &list);
            world.release(guest, &list);
        }
        Step::Touch(guest, pages) => {
            for page in pages {
                world.touch(guest, page).map_err(fail)?;
            }
        }
        Step::Reset(guest, blocks) => {
            world.rebuild(guest, blocks * 512);
            if is_alive(world, guest) {
                world.hello(guest);
            }
        }
        Step::Relocate(guest) => {
            for _ in 0..5 {
                world.relocate_step(guest);
            }
        }
        Step::Scrub(pages) => {
            let hw = &mut world.guests[0].hw.clone();
            crate::balloon::idle::scrub_step(&world.pool, hw, pages);
        }
        Step::Interrupt(is_interrupted) => {
            world.machine.lock().unwrap().is_interrupted = is_interrupted;
        }
        _ => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 12 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever two guests with IPA = PA and two others do, every frame has one owner, totals hold, nobody loses
    /// or sees what it should not, IPA = PA holds where it should; and in the end each gets its own.
    #[test]
    fn any_history(steps in prop::collection::vec(step(), 1..if cfg!(miri) { 4 } else { 30 }), spare in 0..3_u64) {
        let specs = [
            identity((2, 4, 1), &[blocks(0, 1), blocks(3, 3)]),
            ordinary((2, 4, 0)),
            ordinary((2, 4, 1)),
            identity((2, 4, 0), &[blocks(1, 2), blocks(6, 2)]),
        ];
        let mut world = world_with(8 + spare, &specs);
        for step in steps {
            apply(&mut world, step)?;
            world.check();
        }
        world.relocate_all();
        for guest in 0..4 {
            world.touch_all(guest).map_err(TestCaseError::fail)?;
        }
        // Without a spare block there may be nothing to move to: who is in the way of whom cannot change then.
        for (guest, goal) in [(1, 512), (2, 512), (0, 3 * 512), (3, 3 * 512)] {
            let backed = world.rebuild(guest, goal);
            // An ordinary guest may find no whole block: they are their claimants', or have others' pages in them.
            let has_none = {
                let pool = world.pool.lock();
                !pool.has_dirty_block(GuestId::new(guest).unwrap())
            };
            let may_lack = spare == 0 || guest % 3 != 0 && has_none;
            prop_assert!(backed == goal || may_lack, "{} of {}", backed, goal);
            if guest % 3 != 0 || !is_alive(&world, guest) {
                continue;
            }
            world.hello(guest);
            world.touch_all(guest).map_err(TestCaseError::fail)?;
        }
        for guest in 0..4 {
            prop_assert_eq!(world.rebuild(guest, 0), 0);
        }
        world.relocate_all();
        world.scrub_all();
        world.check();
        let counts = *world.pool.lock().counts();
        prop_assert_eq!(counts.zero, counts.total);
    }
}

/// A core that asks the guest again before each look at the interrupts.
struct Asking<'a>(FakeHw, &'a GuestMemory);

impl Window for Asking<'_> {
    fn read(&mut self, page: Pa, index: usize) -> u64 {
        self.0.read(page, index)
    }

    fn write(&mut self, page: Pa, index: usize, word: u64) {
        self.0.write(page, index, word);
    }

    fn fill(&mut self, page: Pa, index: usize, count: usize, first: u64, step: u64) {
        self.0.fill(page, index, count, first, step);
    }

    fn read_page(&mut self, page: Pa, words: &mut [u64]) {
        self.0.read_page(page, words);
    }

    fn write_page(&mut self, page: Pa, words: &[u64]) {
        self.0.write_page(page, words);
    }
}

impl Hardware for Asking<'_> {
    fn publish_tables(&mut self) {
        self.0.publish_tables();
    }

    fn copy_page(&mut self, from: Pa, to: Pa) {
        // A vCPU that accesses the page now does it again, and finds out without a lock.
        let ipa = Ipa(RAM.0 + 2 * BLOCK_SIZE + from.0 % BLOCK_SIZE);
        let verdict = self.1.stage2.judge(&mut self.0.clone(), ipa);
        assert_eq!(verdict, Verdict::Refault, "{ipa}");
        self.0.copy_page(from, to);
    }

    fn finish_copies(&mut self) {
        self.0.finish_copies();
    }

    fn counter(&mut self) -> u64 {
        self.0.counter()
    }

    fn is_interrupted(&mut self) -> bool {
        self.1.ask_to_relocate();
        self.0.is_interrupted()
    }

    fn invalidate_guest(&mut self) {
        self.0.invalidate_guest();
    }

    fn scrub_watching(&mut self, first: Pa, pages: u16) -> u16 {
        self.0.scrub_watching(first, pages)
    }

    fn scrub(&mut self, first: Pa, pages: usize) {
        self.0.scrub(first, pages);
    }
}

/// Who asks while the last piece moves is heard: what it wants may have come after the queue was looked at.
#[test]
fn who_asks_meanwhile_is_heard() {
    let mut world = one_lent();
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
    let Guest { memory, hw, .. } = &world.guests[B];
    let mut hw = Asking(hw.clone(), memory);
    for _ in 0..1_000 {
        if !memory.relocate_step(&world.pool, &mut hw).more {
            break;
        }
    }
    assert!(!world.pool.lock().has_to_move(memory.guest()));
    assert!(memory.has_to_relocate(), "the question is forgotten");
    world.relocate_step(B);
    assert!(!world.guests[B].memory.has_to_relocate());
}

/// Whoever holds the ledger for a moment may not be one who asks again.
#[test]
fn a_look_at_the_ledger_does_not_end_relocation() {
    let mut world = one_lent();
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
    let Guest { memory, hw, .. } = &world.guests[B];
    let held = memory.ledger.lock();
    assert!(memory.relocate_step(&world.pool, &mut hw.clone()).more);
    drop(held);
    world.relocate_all();
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::Done);
}

/// Calls that follow one another without a pause leave a relocation its turn: after one piece that found a call in
/// progress the next finds none. Should it not come, calls go on all the same.
#[test]
fn calls_leave_relocation_its_turn() {
    let mut world = one_lent();
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
    let busy = Some(Status::Busy);
    let query = |world: &mut World| {
        let ipa = world.guests[B].ipa(0);
        let outcome = world.call(B, function::QUERY, [ipa.0, 0, 0, 0]);
        Status::from_register(outcome.registers[0])
    };
    let in_progress = |world: &World| {
        let Guest { memory, hw, .. } = &world.guests[B];
        let call = memory.ledger.lock();
        assert!(memory.relocate_step(&world.pool, &mut hw.clone()).more);
        drop(call);
    };
    in_progress(&world);
    for _ in 0..10 {
        assert_eq!(query(&mut world), busy);
    }
    let before = world.guests[B].memory.stats.relocated_pages.get();
    world.relocate_step(B);
    assert!(world.guests[B].memory.stats.relocated_pages.get() > before);
    assert_eq!(query(&mut world), Some(Status::Success));
    // The core that was to come does not.
    in_progress(&world);
    let refused = (0..10_000)
        .take_while(|_| query(&mut world) == busy)
        .count();
    assert!((100..=1024).contains(&refused), "{refused} calls refused");
    world.relocate_all();
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::Done);
}

/// Lone pages behind hundreds of another guest's: the frames before them are not looked at anew for each, and no look
/// is longer than the bound.
#[test]
fn a_look_goes_on_where_the_last_one_ended() {
    const OTHERS: u64 = 400;
    const LONE: u64 = 100;
    let mut world = world_with(
        6,
        &[
            identity((2, 2, 0), &[blocks(0, 2)]),
            ordinary((1, 2, 0)),
            ordinary((3, 4, 0)),
        ],
    );
    let lent = world.guests[A].block(1);
    world.reserve(A, &[lent]);
    let others: Vec<Entry> = (1536..1536 + OTHERS).map(page).collect();
    let lone: Vec<Entry> = (513..513 + LONE).map(page).collect();
    // The first makes B the first to move out.
    for (guest, pages) in [(B, &vec![page(512)]), (2, &others), (B, &lone)] {
        let taken = world.move_all(guest, function::RELEASE, pages);
        assert!(taken.iter().all(|&status| status == EntryStatus::Done));
    }
    // Where to: two blocks of the third guest's.
    let room = [block(1), block(2)];
    assert_eq!(world.reserve(2, &room), [EntryStatus::Done; 2]);
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
    world.relocate_all();
    let [looks, frames, most] = world.pool.lock().looks;
    assert!(most <= LOOK_FRAMES.into(), "{most} frames in one look");
    assert!(looks > LONE as u32, "{looks} looks");
    // Twice through the block for each of its two holders, and a run or less for each look.
    assert!(
        frames < 4 * 512 + 20 * looks,
        "{frames} frames in {looks} looks"
    );
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::Done);
    world.check();
}

/// A free frame in a block that is wanted, and cannot be left, is nobody's to wait for.
#[test]
fn a_start_does_not_wait_for_what_is_stuck() {
    let mut world = world_with(
        5,
        &[
            identity((2, 2, 0), &[blocks(0, 2)]),
            ordinary((1, 3, 0)),
            ordinary((2, 2, 0)),
        ],
    );
    let lent = world.guests[A].block(1);
    world.reserve(A, &[lent]);
    world.release(B, &[block(1)]);
    assert_eq!(world.reserve(2, &[block(1)]), [EntryStatus::Done]);
    world.release(B, &[block(2)]);
    assert_eq!(world.reserve(B, &[page(512 + 7), page(512 + 8)]).len(), 2);
    assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
    world.relocate_all();
    assert!(world.guests[B].memory.has_to_relocate(), "it is stuck");
    assert_eq!(world.rebuild(2, 1024), 512);
}

/// However many blocks a holder has left by itself, they go to the next one a few at a time.
#[test]
fn the_pool_is_not_held_for_a_whole_queue() {
    let mut world = lent(
        &[
            identity((4, 4, 0), &[blocks(0, 4)]),
            ordinary((1, 4, 0)),
            ordinary((1, 2, 0)),
        ],
        6,
    );
    // B gives three pages of each of its blocks, the first of which holds the table; C takes the others.
    for number in 1..4 {
        let given = [0, 1, 2].map(|n| page(512 * number + n));
        assert_eq!(world.reserve(B, &given), [EntryStatus::Done; 3]);
    }
    let taken: Vec<Entry> = (512..517).map(page).collect();
    assert_eq!(world.release(2, &taken), [EntryStatus::Done; 5]);
    for number in 1..4 {
        assert_eq!(release_block(&mut world, A, number), EntryStatus::NoMemory);
    }
    for number in 1..4 {
        let rest: Vec<Entry> = (3..512).map(|n| page(512 * number + n)).collect();
        world.reserve(B, &rest);
    }
    let holder = GuestId::new(B).unwrap();
    let mut rounds = 0;
    while world.pool.lock().has_to_move(holder) {
        let mut others = crate::frames::GuestSet::EMPTY;
        let mut looked = 0;
        let mut look = Look::GoOn;
        for _ in 0..16 {
            look = world
                .pool
                .lock()
                .next_part(holder, &mut others, &mut looked);
            if look != Look::GoOn {
                break;
            }
        }
        assert_eq!(look, Look::Nothing);
        assert!(others.contains(GuestId::new(2).unwrap()));
        rounds += 1;
    }
    assert_eq!(rounds, 2, "three blocks, two at a time");
    world.check();
}

/// What may happen to a relocation from outside, between any two pieces of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Incident {
    HolderStops,
    HolderResets,
    /// It makes no call any more, and its cores wait: they go on moving.
    HolderCrashes,
    OwnerStops,
    OwnerResets,
    /// It makes no call any more.
    OwnerCrashes,
    /// A second request for the same block.
    AskedAgain,
    HolderReserves,
    HolderReleases,
    HolderQueries,
    HolderSaysHello,
    /// The owner's deadline passes, and its target is what it was before.
    DeadlinePasses,
    /// A third guest takes all that is free.
    PoolRunsEmpty,
}

impl Incident {
    const ALL: [Self; 13] = [
        Self::HolderStops,
        Self::HolderResets,
        Self::HolderCrashes,
        Self::OwnerStops,
        Self::OwnerResets,
        Self::OwnerCrashes,
        Self::AskedAgain,
        Self::HolderReserves,
        Self::HolderReleases,
        Self::HolderQueries,
        Self::HolderSaysHello,
        Self::DeadlinePasses,
        Self::PoolRunsEmpty,
    ];

    fn happens(self, world: &mut World) {
        /// Pages that have moved early, late and not at all, whatever the step.
        const PAGES: [u64; 4] = [1024, 1024 + 17, 1024 + 300, 1024 + 511];
        match self {
            Self::HolderStops => assert_eq!(world.rebuild(B, 0), 0),
            Self::HolderResets => {
                world.rebuild(B, 512);
                world.hello(B);
            }
            Self::OwnerStops => assert_eq!(world.rebuild(A, 0), 0),
            Self::OwnerResets => {
                assert_eq!(world.rebuild(A, 1024), 1024);
                world.hello(A);
            }
            Self::HolderCrashes | Self::OwnerCrashes => {}
            Self::AskedAgain => {
                release_block(world, A, 1);
            }
            Self::HolderReserves => {
                let given = PAGES.map(page);
                assert_eq!(world.reserve(B, &given), [EntryStatus::Done; 4]);
            }
            Self::HolderReleases => {
                let held = PAGES.map(page);
                assert_eq!(world.release(B, &held), [EntryStatus::AlreadyBacked; 4]);
            }
            Self::HolderQueries => {
                for number in PAGES {
                    let ipa = world.guests[B].ipa(number);
                    let outcome = world.call(B, function::QUERY, [ipa.0, 0, 0, 0]);
                    assert_eq!(outcome.registers[1], 1, "{ipa} is backed wherever it is");
                }
            }
            Self::HolderSaysHello => {
                // The list page is one that moves: what a call finds there is what the guest wrote.
                let list = world.guests[B].ipa(1024 + 200);
                let outcome = world.call(B, function::HELLO, [list.0, 0, 0, 0]);
                assert_eq!(outcome.registers[0], 0);
                world.hello(B);
            }
            Self::DeadlinePasses => world.set_target(A, 512),
            Self::PoolRunsEmpty => {
                let all: Vec<Entry> = (512..1024).map(page).collect();
                world.release(C, &all);
            }
        }
    }
}

/// A third guest, which has one block and may have two.
const C: usize = 2;

/// At each step of a move: nothing is lost, nothing has two owners, nothing stays kept for nobody, and the owner gets
/// his block if he still wants it and there is anywhere to move to.
#[test]
fn incidents_at_every_step() {
    for incident in Incident::ALL {
        for step in [0, 1, 9, 20, 33] {
            let own = identity((2, 2, 0), &[blocks(0, 2)]);
            let mut world = world_with(5, &[own, ordinary((2, 3, 0)), ordinary((1, 2, 0))]);
            let lent = world.guests[A].block(1);
            world.reserve(A, &[lent]);
            world.release(B, &[block(2)]);
            world.reserve(B, &[block(1)]);
            world.touch_all(B).unwrap();
            assert_eq!(release_block(&mut world, A, 1), EntryStatus::NoMemory);
            world.machine.lock().unwrap().is_interrupted = true;
            for _ in 0..step {
                world.relocate_step(B);
            }
            incident.happens(&mut world);
            let context = format!("{incident:?} at step {step}");
            world.check();
            for guest in [A, B, C] {
                world.touch_all(guest).expect(&context);
            }
            world.machine.lock().unwrap().is_interrupted = false;
            world.relocate_all();
            world.check();
            for guest in [A, B, C] {
                world.touch_all(guest).expect(&context);
            }
            match incident {
                Incident::OwnerStops | Incident::OwnerResets => {}
                Incident::DeadlinePasses => {
                    assert_eq!(release_block(&mut world, A, 1), EntryStatus::OverTarget);
                }
                Incident::PoolRunsEmpty => {
                    // Whoever gives something lets it go on.
                    if release_block(&mut world, A, 1) != EntryStatus::Done {
                        world.rebuild(C, 0);
                        world.relocate_all();
                        assert_eq!(
                            release_block(&mut world, A, 1),
                            EntryStatus::Done,
                            "{context}"
                        );
                    }
                }
                Incident::AskedAgain => {
                    let status = release_block(&mut world, A, 1);
                    assert!(
                        matches!(status, EntryStatus::Done | EntryStatus::AlreadyBacked),
                        "{context}: {status:?}"
                    );
                }
                _ => assert_eq!(
                    release_block(&mut world, A, 1),
                    EntryStatus::Done,
                    "{context}"
                ),
            }
            world.check();
            for guest in [A, B, C] {
                world.touch_all(guest).expect(&context);
            }
            let pool = world.pool.lock();
            assert_eq!(
                pool.available(),
                pool.counts().free(),
                "{context}: frames are kept"
            );
        }
    }
}
