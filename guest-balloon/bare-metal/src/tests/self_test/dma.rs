//! What a DMA master of the BCM2711 reaches: one of the older controller's channels copies a page (BCM2711 ARM
//! Peripherals, chapter 4). Its bus addresses have 32 bits, of which the first GiB of RAM is at 0xc000_0000.

use core::arch::asm;

use ballast_balloon::abi::{Order, PAGE_SIZE};

use super::super::{Outcome, Why, why};
use super::board;
use crate::balloon::Front;
use crate::mmio::Mmio;
use crate::pages::State;
use crate::{cpu, ensure, memory, println};

/// Of the channels that firmware leaves to others (the tree's `brcm,dma-channel-mask`).
const CHANNEL: u64 = 5;
const CHANNEL_BYTES: u64 = 0x100;
/// CS and CONBLK_AD, table 36.
const CONTROL: usize = 0x00;
const BLOCK: usize = 0x04;
const ACTIVE: u32 = 1 << 0;
const END: u32 = 1 << 1;
const ERROR: u32 = 1 << 8;
const RESET: u32 = 1 << 31;
/// TI: wait for writes, destination and source increment.
const TRANSFER: u32 = 1 << 3 | 1 << 4 | 1 << 8;
const GIB: u64 = 1 << 30;
/// Where the controller sees the first GiB, past the VideoCore's cache.
const BUS: u64 = 0xc000_0000;

/// A page in the guest's hands, and where it is.
#[derive(Clone, Copy)]
struct Page {
    ipa: u64,
    pa: u64,
}

/// Takes a page below 1 GiB, or above, out of whole blocks.
fn take(front: &mut Front, low: bool) -> Option<Page> {
    let mut blocks: heapless::Vec<u64, 512> = heapless::Vec::new();
    let mut found = None;
    while let Some(ipa) = front.pages.pick(State::Free, Order::Block) {
        if let Some(pa) = board::frame(ipa).filter(|pa| (*pa < GIB) == low) {
            found = Some(Page { ipa, pa });
            break;
        }
        if blocks.push(ipa).is_err() {
            break;
        }
    }
    for ipa in blocks {
        front.pages.set(ipa, Order::Block, State::Free);
    }
    found
}

/// Writes a page's lines back and forgets them: the controller does not look into the caches.
fn flush(page: u64) {
    for line in (page..page + PAGE_SIZE).step_by(16) {
        // SAFETY: what is invalidated has been written back.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

/// Has the channel copy a page; addresses are the bus's. `block` is a page for its control block.
fn copy(base: u64, block: Page, from: u32, to: u32) -> Outcome {
    // SAFETY: the controller's registers, which the guest was given.
    let channel = unsafe { Mmio::new(base + CHANNEL * CHANNEL_BYTES) };
    let words = [TRANSFER, from, to, PAGE_SIZE as u32, 0, 0, 0, 0];
    for (index, word) in words.into_iter().enumerate() {
        // SAFETY: a page out of the allocator.
        unsafe { ((block.ipa + index as u64 * 4) as *mut u32).write_volatile(word) };
    }
    flush(block.ipa);
    channel.write32(CONTROL, RESET);
    channel.write32(BLOCK, (block.pa + BUS) as u32);
    channel.write32(CONTROL, ACTIVE);
    let done = cpu::wait_until_us(1_000_000, || channel.read32(CONTROL) & ACTIVE == 0);
    let control = channel.read32(CONTROL);
    channel.write32(CONTROL, END);
    ensure!(
        done && control & ERROR == 0,
        "the channel says {control:#x}"
    );
    Ok(())
}

/// Copies within the first GiB, by whole pages past the caches; and a page above it is not reached by its address.
pub fn limits(front: &mut Front, base: u64) -> Outcome {
    let low = || why(format_args!("no memory below 1 GiB"));
    let block = take(front, true).ok_or_else(low)?;
    let [source, target] = [1, 2].map(|n| Page {
        ipa: block.ipa + n * PAGE_SIZE,
        pa: block.pa + n * PAGE_SIZE,
    });
    let high = take(front, false);
    let outcome = run(front.seed, base, [block, source, target], high);
    for page in [Some(block), high].into_iter().flatten() {
        for page in (page.ipa..page.ipa + Order::Block.bytes()).step_by(PAGE_SIZE as usize) {
            // SAFETY: pages out of the allocator.
            unsafe { memory::fill(page, front.seed) };
        }
        front.pages.set(page.ipa, Order::Block, State::Free);
    }
    outcome
}

fn run(seed: u64, base: u64, [block, source, target]: [Page; 3], high: Option<Page>) -> Outcome {
    // SAFETY: pages out of the allocator, as everything in here.
    unsafe {
        memory::fill(source.ipa, seed);
        memory::fill(target.ipa, !seed);
    }
    flush(source.ipa);
    flush(target.ipa);
    let bus = |page: Page| (page.pa + BUS) as u32;
    copy(base, block, bus(source), bus(target))?;
    flush(target.ipa);
    same(source.ipa, target.ipa)?;
    let Some(high) = high.filter(|page| page.pa < 4 * GIB) else {
        println!("NOTE dma-limits: the guest has no memory above 1 GiB");
        return Ok(());
    };
    // Read, not written: what the address means to the channel is somebody else's memory.
    // SAFETY: as above.
    unsafe { memory::fill(high.ipa, seed.rotate_left(7)) };
    flush(high.ipa);
    copy(base, block, high.pa as u32, bus(target))?;
    flush(target.ipa);
    ensure!(
        same(high.ipa, target.ipa).is_err(),
        "the page at {:#x} was reached, against the board's dma-ranges",
        high.pa
    );
    Ok(())
}

/// Whether two pages hold the same.
fn same(one: u64, two: u64) -> Result<(), Why> {
    for offset in (0..PAGE_SIZE).step_by(8) {
        // SAFETY: pages of the caller's.
        let [one, two] =
            [one, two].map(|page| unsafe { ((page + offset) as *const u64).read_volatile() });
        ensure!(one == two, "at {offset:#x} {two:#x}, not {one:#x}");
    }
    Ok(())
}
