//! The guest's RAM at start: which pages the allocator gets.

use core::ops::Range;

use ballast_balloon::abi::{Order, PAGE_SIZE};

use crate::machine::Machine;
use crate::memory;
use crate::pages::{Counts, Pages, State};

const fn page_up(address: u64) -> u64 {
    address.next_multiple_of(PAGE_SIZE)
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The allocator over the range of RAM that the image is in, less image, device tree and reserved memory; its tables lie in the
/// first place behind the image that is free.
pub fn allocator(machine: &Machine) -> Result<Pages<'static>, &'static str> {
    let image = memory::image();
    let has_image = |range: &&Range<u64>| range.contains(&image.start);
    let ram = machine.ram.iter().find(has_image).ok_or("no memory node")?;
    let base = ram.start.next_multiple_of(Order::Block.bytes());
    let count = (ram.end.saturating_sub(base) / PAGE_SIZE) as usize;
    let bytes = page_up((count + Pages::blocks_for(count) * size_of::<Counts>() + 64) as u64);
    let mut tables = page_up(image.end)..page_up(image.end) + bytes;
    while let Some(in_the_way) = machine
        .reserved
        .iter()
        .find(|range| overlaps(range, &tables))
    {
        tables = page_up(in_the_way.end)..page_up(in_the_way.end) + bytes;
    }
    if tables.end > ram.end {
        return Err("no room for the allocator's tables");
    }
    let counts_at = tables.start + (count as u64).next_multiple_of(8);
    // SAFETY: within RAM, overlapping neither image nor anything reserved; kept out of the allocator below.
    let (states, blocks) = unsafe {
        (
            memory::carve(tables.start, count, State::Kept),
            memory::carve(counts_at, Pages::blocks_for(count), Counts::default()),
        )
    };
    let mut pages = Pages::new(base, states, blocks);
    for page in 0..count as u64 {
        let address = base + page * PAGE_SIZE;
        let range = address..address + PAGE_SIZE;
        let kept = machine
            .reserved
            .iter()
            .chain([&image, &tables])
            .any(|taken| overlaps(taken, &range));
        if !kept {
            pages.set(address, Order::Page, State::Free);
        }
    }
    Ok(pages)
}
