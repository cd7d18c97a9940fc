//! RESERVE and RELEASE: Ballast's share, per entry and per page.

use ballast_balloon::Hypercall;
use ballast_balloon::abi::{Entry, EntryStatus, LIST_ENTRIES, Order, Status, function};
use heapless::Vec;

use super::Results;
use crate::balloon::{Front, LIST};
use crate::machine::Machine;
use crate::pages::State;
use crate::tests::{Outcome, Why, why};
use crate::{ensure, tests};

/// Rounds: enough to use up the zeroed blocks of a 512 MiB board, so that the last ones are scrubbed.
const ROUNDS: usize = 16;
/// 2 MiB blocks moved in a round, 128 MiB in all.
const BLOCKS: usize = 64;

/// What one list took.
struct Cost {
    instructions: u64,
    calls: u64,
    /// The longest single call.
    longest: u64,
}

/// Moves a whole list one way, timing the calls alone.
fn exchange(
    results: &Results,
    front: &mut Front,
    function: u32,
    epoch: u64,
    entries: &[Entry],
) -> Result<Cost, Why> {
    let mut cost = Cost {
        instructions: 0,
        calls: 0,
        longest: 0,
    };
    let mut first = 0;
    while first < entries.len() {
        for (index, &entry) in entries[first..].iter().enumerate() {
            LIST.set(index, entry);
        }
        let left = (entries.len() - first) as u64;
        let before = results.now();
        let [x0, consumed, ..] = front.call(function, left, epoch);
        let spent = results.now() - before;
        ensure!(
            Status::from_register(x0) == Some(Status::Success),
            "call {function:#x}: {x0:#x}"
        );
        for index in 0..consumed as usize {
            let status = LIST.get(index).status();
            ensure!(
                status == Some(EntryStatus::Done),
                "call {function:#x}, entry {}: {status:?}",
                first + index
            );
        }
        cost.instructions += spent;
        cost.calls += 1;
        cost.longest = cost.longest.max(spent);
        ensure!(cost.calls < 100_000, "call {function:#x} does not end");
        first += consumed as usize;
    }
    Ok(cost)
}

/// Runs of one order, as list entries: whole blocks out of the allocator, cut up.
fn entries(front: &mut Front, order: Order, most: usize) -> Vec<Entry, LIST_ENTRIES> {
    let runs_per_block = Order::Block.pages() / order.pages();
    let blocks = core::iter::from_fn(|| front.pages.pick(State::Free, Order::Block));
    blocks
        .take((most as u64).div_ceil(runs_per_block) as usize)
        .flat_map(|block| (0..runs_per_block).map(move |run| block + run * order.bytes()))
        .map(|ipa| Entry::new(ipa, order))
        .collect()
}

fn give_back(front: &mut Front, entries: &[Entry]) {
    for entry in entries {
        if let Some(order) = entry.order() {
            front.pages.set(entry.ipa(), order, State::Free);
        }
    }
}

/// Medians over the rounds; the scrub is what a released block costs more when no zeroed one is left.
pub fn measure(machine: &Machine, results: &mut Results) -> Outcome {
    let (mut front, driver) = tests::balloon::register(machine)?;
    front.contents = false;
    let epoch = driver.epoch();
    let mut longest = 0;

    let blocks = entries(&mut front, Order::Block, BLOCKS);
    ensure!(
        blocks.len() == BLOCKS,
        "{} free blocks: give the guest more memory",
        blocks.len()
    );
    let (mut down, mut up) = ([0; ROUNDS], [0; ROUNDS]);
    for (down, up) in down.iter_mut().zip(&mut up) {
        for (call, sum) in [(function::RESERVE, down), (function::RELEASE, up)] {
            let cost = exchange(results, &mut front, call, epoch, &blocks)?;
            *sum = cost.instructions / blocks.len() as u64;
            longest = longest.max(cost.longest);
        }
    }
    give_back(&mut front, &blocks);
    down.sort_unstable();
    up.sort_unstable();
    let zeroed = up[0];
    let scrub = (up[ROUNDS - 1] - zeroed) / Order::Block.pages();
    results.add("reserve_2m_per_entry", down[ROUNDS / 2]);
    results.add("release_2m_per_entry", zeroed);
    results.add("scrub_per_page", scrub);

    for (order, names) in [
        (
            Order::Pages16,
            ["reserve_64k_per_page", "release_64k_per_page"],
        ),
        (Order::Page, ["reserve_4k_per_page", "release_4k_per_page"]),
    ] {
        // These are split and merged with the runs.
        let list = entries(&mut front, order, LIST_ENTRIES);
        let pages = list.len() as u64 * order.pages();
        ensure!(pages > 0, "no free run of {order:?}");
        let (mut down, mut up) = ([0; 8], [0; 8]);
        for (down, up) in down.iter_mut().zip(&mut up) {
            for (call, sum) in [(function::RESERVE, down), (function::RELEASE, up)] {
                let cost = exchange(results, &mut front, call, epoch, &list)?;
                *sum = cost.instructions / pages;
                longest = longest.max(cost.longest);
            }
        }
        give_back(&mut front, &list);
        down.sort_unstable();
        up.sort_unstable();
        results.add(names[0], down[4]);
        // The frames that come back are those that went, dirty: the scrub is counted apart.
        results.add(names[1], up[4].saturating_sub(scrub));
    }
    results.add("longest_memory_call", longest);
    if let Some(problem) = front.mismatch {
        return Err(why(format_args!("contents: {problem:x?}")));
    }
    Ok(())
}
