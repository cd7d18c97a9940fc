//! From the loader's hand-over to running guests, in order:
//! console, memory map, configuration, admission, partition plan, secondaries, guests.

mod memory;
mod smp;

use ballast_core::addr::Pa;
use ballast_core::board::{self, Board};
use ballast_core::dt::DeviceTree;
use ballast_core::refusal::Refusal;

use crate::aarch64::{firmware, mmu};
use crate::console::{self, say};
use crate::gic::Gic;

pub use smp::rust_secondary;

/// Core 0 arrives here from `entry.S`, on the boot stack, with the image mapped and nothing else.
#[unsafe(no_mangle)]
extern "C" fn rust_boot(dtb: u64, image: u64) -> ! {
    let image = memory::image(Pa(image));
    let blob = memory::map_device_tree(Pa(dtb));
    // Without a device tree there is no console to complain on.
    let Ok(tree) = DeviceTree::new(blob) else {
        park()
    };
    if let Some(description) = board::find_console(&tree) {
        console::init(&description);
    }
    say!("Ballast {}", env!("CARGO_PKG_VERSION"));
    match bring_up(&tree, blob, image) {
        Ok(never) => match never {},
        Err(refusal) => refuse(&tree, &[refusal]),
    }
}

fn bring_up(
    tree: &DeviceTree<'_>,
    blob: &'static [u8],
    image: ballast_core::addr::PaRange,
) -> Result<core::convert::Infallible, Refusal> {
    let board = Board::from_dt(tree)?;
    let guests = tree
        .find("/ballast")
        .map_or(0, |node| node.children().count());
    let plan = memory::plan(&board, image, blob, guests)?;
    say!(
        "{}: {} cores, GICv{}, {} MiB RAM, {} KiB for Ballast",
        board.model,
        board.cores.len(),
        board.gic.version(),
        board.ram.iter().map(|range| range.size).sum::<u64>() >> 20,
        plan.own_bytes >> 10
    );
    let gic = Gic::new(&board)
        .map_err(|problem| Refusal::new("interrupt controller").problem(problem))?;
    let gic: &'static Gic = alloc::boxed::Box::leak(alloc::boxed::Box::new(gic));
    smp::start_all(&board, gic, image.start)?;
    say!("all cores up");
    park()
}

/// Says why and turns the board off, if it can be.
fn refuse(tree: &DeviceTree<'_>, refusals: &[Refusal]) -> ! {
    for refusal in refusals {
        say!("refused: {refusal}");
    }
    say!("no guest was started");
    let smc = Board::from_dt(tree)
        .ok()
        .and_then(|board| board.psci)
        .is_some_and(|psci| psci.smc);
    if smc {
        // SAFETY: the device tree says that firmware's PSCI listens to SMC.
        unsafe { firmware::smc(firmware::SYSTEM_OFF, [0; 3]) };
    }
    park()
}

/// Waits for ever, asleep.
pub fn park() -> ! {
    loop {
        aarch64_cpu::asm::wfe();
    }
}
