//! Bad lists: pointers, counts and entries that must be refused, with nothing done by half.

use ballast_balloon::abi::{Entry, EntryStatus, LIST_ENTRIES, Order, PAGE_SIZE, Status, function};
use ballast_balloon::{Driver, Hypercall, PageSource};

use super::super::balloon::register;
use super::super::{Outcome, Why, why};
use crate::balloon::{self, Front, LIST};
use crate::cpu;
use crate::machine::Machine;
use crate::pages::State;
use crate::{ensure, println};

/// Seconds for which calls may consume nothing (a large page is being scrubbed) or find the guest busy: whoever
/// scrubs may be a core that the emulator has no time for.
const PATIENCE_S: u64 = 10;

/// Puts `entries` in the list page and makes the call, again until all are consumed: status, pages done.
pub fn exchange(
    front: &mut Front,
    function: u32,
    epoch: u64,
    entries: &[Entry],
) -> (Option<Status>, u64) {
    let (mut first, mut done) = (0, 0);
    let patience = PATIENCE_S * cpu::frequency();
    let mut moved_at = cpu::counter();
    while first < entries.len() {
        for (index, &entry) in entries[first..].iter().enumerate() {
            LIST.set(index, entry);
        }
        let left = (entries.len() - first) as u64;
        let [x0, consumed, pages, _] = front.call(function, left, epoch);
        let status = Status::from_register(x0);
        let waits = match status {
            Some(Status::Success) => consumed == 0,
            Some(Status::Busy) => true,
            _ => return (status, done),
        };
        if consumed > left || cpu::counter().wrapping_sub(moved_at) > patience {
            return (Some(Status::Busy), done);
        }
        if waits {
            cpu::relax();
        } else {
            first += consumed as usize;
            done += pages;
            moved_at = cpu::counter();
        }
    }
    (Some(Status::Success), done)
}

/// One entry by itself: what became of it.
pub fn judge(
    front: &mut Front,
    function: u32,
    epoch: u64,
    entry: Entry,
) -> Result<EntryStatus, Why> {
    let (status, _) = exchange(front, function, epoch, &[entry]);
    ensure!(
        status == Some(Status::Success),
        "call {function:#x} for {:#x}: {status:?}",
        entry.0
    );
    LIST.get(0).status().ok_or_else(|| {
        why(format_args!(
            "entry {:#x} became {:#x}",
            entry.0,
            LIST.get(0).0
        ))
    })
}

/// Pages not backed, counted by QUERY.
pub fn not_backed(front: &mut Front) -> Result<u64, Why> {
    let (base, pages) = front.pages.range();
    let (mut page, mut missing) = (0, 0);
    while page < pages {
        let [x0, backed, run, _] = front.call(function::QUERY, base + page * PAGE_SIZE, 0);
        ensure!(
            Status::from_register(x0) == Some(Status::Success),
            "QUERY of page {page}: {x0:#x}"
        );
        ensure!(run > 0, "QUERY of page {page}: an empty run");
        let run = run.min(pages - page);
        missing += if backed == 0 { run } else { 0 };
        page += run;
    }
    Ok(missing)
}

/// A run of the allocator's, in the test's hands.
fn take(front: &mut Front, order: Order) -> Result<u64, Why> {
    front
        .pages
        .pick(State::Free, order)
        .ok_or_else(|| why(format_args!("the allocator has no {order:?}")))
}

/// Addresses that are not this guest's memory.
fn foreign(machine: &Machine) -> [u64; 9] {
    let end = machine.ram.iter().map(|ram| ram.end).max().unwrap_or(0);
    [
        0,
        0x0800_0000,
        machine.uart,
        0x3fff_f000,
        end,
        end + (1 << 30),
        1 << 40,
        0x000f_ffff_ffff_f000,
        0x4000_0000 | 1 << 51,
    ]
}

/// H5: list pointers.
pub fn h5(machine: &Machine) -> Outcome {
    let (mut front, mut driver) = register(machine)?;
    let good = front.list_ipa();
    let before = (driver.epoch(), not_backed(&mut front)?);
    let unaligned = [1, 4, 8, 0x800, 0xfff].map(|offset| good + offset);
    let wrapping = [u64::MAX, u64::MAX - 0xfff, 1 << 63];
    for pointer in foreign(machine)
        .into_iter()
        .chain(unaligned)
        .chain(wrapping)
    {
        let [x0, ..] = front.call(function::HELLO, pointer, 0);
        let refused = matches!(
            Status::from_register(x0),
            Some(Status::InvalidAddress | Status::InvalidParameters)
        );
        ensure!(refused, "HELLO with list {pointer:#x}: {x0:#x}");
    }
    let [x0, ..] = front.call(function::HELLO, good, 1);
    ensure!(
        Status::from_register(x0) == Some(Status::InvalidParameters),
        "HELLO with unknown flags: {x0:#x}"
    );
    // The driver that was there is still the one.
    let (status, _) = exchange(&mut front, function::RESERVE, before.0, &[Entry(1)]);
    ensure!(
        status == Some(Status::Success),
        "after refused HELLOs the epoch is another: {status:?}"
    );
    ensure!(
        not_backed(&mut front)? == before.1,
        "pages have changed hands"
    );
    driver.step(&mut front);
    balloon::audit(&mut front, &driver)
}

/// H6: counts.
pub fn h6(machine: &Machine) -> Outcome {
    let (mut front, driver) = register(machine)?;
    let before = not_backed(&mut front)?;
    for index in 0..LIST_ENTRIES {
        LIST.set(index, Entry(u64::MAX));
    }
    for call in [function::RESERVE, function::RELEASE] {
        for count in [0, 513, 1 << 31, (1 << 32) + 1, 1 << 61, 1 << 63, u64::MAX] {
            let [x0, ..] = front.call(call, count, driver.epoch());
            ensure!(
                Status::from_register(x0) == Some(Status::InvalidParameters),
                "call {call:#x} with count {count:#x}: {x0:#x}"
            );
        }
        let (status, done) = exchange(
            &mut front,
            call,
            driver.epoch(),
            &[Entry(u64::MAX); LIST_ENTRIES],
        );
        ensure!(
            (status, done) == (Some(Status::Success), 0),
            "512 malformed entries: {status:?}, {done} done"
        );
    }
    ensure!(
        not_backed(&mut front)? == before,
        "pages have changed hands"
    );
    Ok(())
}

/// H7 and H12: entries, one by one and twice in a list.
pub fn h7(machine: &Machine) -> Outcome {
    let (mut front, driver) = register(machine)?;
    front.contents = false;
    let epoch = driver.epoch();
    let before = not_backed(&mut front)?;
    let page = take(&mut front, Order::Page)?;
    let block = take(&mut front, Order::Block)?;
    let list = front.list_ipa();
    let both = [function::RESERVE, function::RELEASE];
    for call in both {
        for address in foreign(machine) {
            let found = judge(&mut front, call, epoch, Entry::new(address, Order::Page))?;
            ensure!(
                found == EntryStatus::OutOfRange,
                "call {call:#x} of {address:#x}: {found:?}"
            );
        }
        for (entry, expected) in [
            (Entry(page | 1), EntryStatus::Malformed),
            (Entry(page | 0x3f), EntryStatus::Malformed),
            (Entry(page | 0x40), EntryStatus::Malformed),
            (Entry(page | 1 << 52), EntryStatus::Malformed),
            (Entry(page | 1 << 56), EntryStatus::Malformed),
            (
                Entry::new(block + PAGE_SIZE, Order::Block),
                EntryStatus::Unaligned,
            ),
            (
                Entry::new(block + PAGE_SIZE, Order::Pages16),
                EntryStatus::Unaligned,
            ),
        ] {
            let found = judge(&mut front, call, epoch, entry)?;
            ensure!(
                found == expected,
                "call {call:#x} of {:#x}: {found:?}",
                entry.0
            );
        }
    }
    let found = judge(
        &mut front,
        function::RESERVE,
        epoch,
        Entry::new(list, Order::Page),
    )?;
    ensure!(
        found == EntryStatus::Pinned,
        "RESERVE of the list page: {found:?}"
    );
    let around = list & !(Order::Pages16.bytes() - 1);
    let found = judge(
        &mut front,
        function::RESERVE,
        epoch,
        Entry::new(around, Order::Pages16),
    )?;
    ensure!(
        found == EntryStatus::Pinned,
        "RESERVE of a run with the list page: {found:?}"
    );
    let found = judge(
        &mut front,
        function::RELEASE,
        epoch,
        Entry::new(page, Order::Page),
    )?;
    ensure!(
        found == EntryStatus::AlreadyBacked,
        "RELEASE of what is there: {found:?}"
    );

    // Twice in one list, and a block of which one page is gone.
    let twice = [Entry::new(page, Order::Page); 2];
    let (status, done) = exchange(&mut front, function::RESERVE, epoch, &twice);
    ensure!(
        (status, done) == (Some(Status::Success), 1),
        "the same page twice: {status:?}, {done} done"
    );
    let found = judge(
        &mut front,
        function::RESERVE,
        epoch,
        Entry::new(page, Order::Page),
    )?;
    ensure!(
        found == EntryStatus::NotBacked,
        "RESERVE of what is gone: {found:?}"
    );
    let hole = block + 77 * PAGE_SIZE;
    let found = judge(
        &mut front,
        function::RESERVE,
        epoch,
        Entry::new(hole, Order::Page),
    )?;
    ensure!(
        found == EntryStatus::Done,
        "RESERVE of one page of a block: {found:?}"
    );
    let found = judge(
        &mut front,
        function::RESERVE,
        epoch,
        Entry::new(block, Order::Block),
    )?;
    ensure!(
        found == EntryStatus::NotBacked,
        "RESERVE of a block with a hole: {found:?}"
    );
    ensure!(
        not_backed(&mut front)? == before + 2,
        "pages have changed hands in a refused call"
    );

    // Back; and then there is nothing left that would be below the target.
    for address in [page, hole] {
        let found = judge(
            &mut front,
            function::RELEASE,
            epoch,
            Entry::new(address, Order::Page),
        )?;
        ensure!(
            found == EntryStatus::Done,
            "RELEASE of {address:#x}: {found:?}"
        );
    }
    if let Some(held) = front.pages.pick(State::Held, Order::Page) {
        let found = judge(
            &mut front,
            function::RELEASE,
            epoch,
            Entry::new(held, Order::Page),
        )?;
        ensure!(
            found == EntryStatus::OverTarget,
            "RELEASE beyond the target: {found:?}"
        );
        front.hold(held, Order::Page);
    }
    ensure!(not_backed(&mut front)? == before, "not all came back");
    println!("{before} pages not backed, as at the start");
    Ok(())
}

/// H11: what comes back reads zero, in every order.
pub fn h11(machine: &Machine) -> Outcome {
    let (mut front, driver) = register(machine)?;
    for order in [Order::Page, Order::Pages16, Order::Block] {
        let mut runs = [0; 2];
        let taken = front.take(order, &mut runs);
        for &run in &runs[..taken.runs] {
            for call in [function::RESERVE, function::RELEASE] {
                let found = judge(&mut front, call, driver.epoch(), Entry::new(run, order))?;
                ensure!(
                    found == EntryStatus::Done,
                    "call {call:#x} of {order:?}: {found:?}"
                );
            }
            front.give_zeroed(run, order);
        }
    }
    balloon::audit(&mut front, &driver)
}

/// H13: every second page of a block, out and in, over and over; then the whole block in one piece.
pub fn h13(machine: &Machine) -> Outcome {
    let (mut front, driver) = register(machine)?;
    front.contents = false;
    let epoch = driver.epoch();
    let before = not_backed(&mut front)?;
    let block = take(&mut front, Order::Block)?;
    let every_second: [Entry; 256] =
        core::array::from_fn(|index| Entry::new(block + 2 * index as u64 * PAGE_SIZE, Order::Page));
    for round in 0..machine.arg_number("rounds").unwrap_or(50) {
        for call in [function::RESERVE, function::RELEASE] {
            let (status, done) = exchange(&mut front, call, epoch, &every_second);
            ensure!(
                (status, done) == (Some(Status::Success), 256),
                "round {round}, {call:#x}: {status:?}, {done} done"
            );
        }
        for call in [function::RESERVE, function::RELEASE] {
            let found = judge(&mut front, call, epoch, Entry::new(block, Order::Block))?;
            ensure!(
                found == EntryStatus::Done,
                "round {round}: the whole block by {call:#x}: {found:?}"
            );
        }
    }
    ensure!(not_backed(&mut front)? == before, "not all came back");
    let mut again = Driver::new(&front);
    again
        .hello(&mut front)
        .map_err(|error| why(format_args!("hello: {error:?}")))?;
    ensure!(
        again.reserved_pages() == before,
        "{} reserved, {before} before",
        again.reserved_pages()
    );
    Ok(())
}
