//! From the loader's hand-over to running guests, in order:
//! console, memory map, configuration, admission, partition plan, secondaries, guests.

mod memory;
mod smp;

use alloc::boxed::Box;
use alloc::vec::Vec;

use ballast_core::addr::{PAGE_SIZE, Pa, PaRange};
use ballast_core::archive::Archive;
use ballast_core::balloon::GuestMemory;
use ballast_core::balloon::Scrubber;
use ballast_core::board::{self, Board};
use ballast_core::config::Partitions;
use ballast_core::console::{Label, Labels};
use ballast_core::cores::{Cores, Entitlement};
use ballast_core::dt::DeviceTree;
use ballast_core::frames::{BootFrames, Pool};
use ballast_core::log::{Event, EventLog, Origin};
use ballast_core::monitor::Session;
use ballast_core::plan::{BootPlan, GuestPlan};
use ballast_core::refusal::Refusal;
use ballast_core::stage2;
use ballast_core::sysreg::IdRegisters;
use ballast_core::vgic;
use spin::mutex::TicketMutex;

use crate::aarch64::{registers, speculation};
use crate::channels::Channels;
use crate::console::{self, Terminal, say};
use crate::gic::Gic;
use crate::guest::{Guest, Shared};
use crate::percpu;
use crate::power;
use crate::scheduler::Scheduler;
use crate::system::{self, System};

pub use smp::{counter, frequency};

/// Core 0 arrives here from `entry.S`, on the boot stack, with the image mapped and nothing else.
#[unsafe(no_mangle)]
extern "C" fn rust_boot(dtb: u64, image: u64) -> ! {
    let image = memory::image(Pa(image));
    let blob = memory::map_device_tree(Pa(dtb));
    let tree = memory::read_tree(blob, image);
    let description = match &tree {
        Ok((tree, _)) => board::find_console(tree),
        Err(_) => board::last_resort_console(blob),
    };
    if let Some(description) = &description {
        console::init(description);
    }
    say!("Ballast {}", env!("CARGO_PKG_VERSION"));
    let (tree, early) = match tree {
        // A primary guest's device tree is made of it at each start.
        Ok((tree, early)) => (&*Box::leak(Box::new(tree)), early),
        Err(refusal) => refuse(&[refusal]),
    };
    let power = board::find_power(tree);
    if let Some(power) = power {
        power::init(power);
    }
    let board = Board::with(tree, description, power);
    match board
        .map_err(|refusal| alloc::vec![refusal])
        .and_then(|board| bring_up(board, tree, blob, [image, early]))
    {
        // Core 0 becomes a core like any other.
        Ok(core) => crate::run::start_core(core),
        Err(refusals) => refuse(&refusals),
    }
}

/// Everything up to the guests' start. Returns this core's number.
fn bring_up(
    board: Board,
    tree: &'static DeviceTree<'static>,
    blob: &'static [u8],
    [image, early]: [PaRange; 2],
) -> Result<usize, Vec<Refusal>> {
    let one = |refusal| alloc::vec![refusal];
    let map = memory::plan(&board, tree, image, early, blob).map_err(one)?;
    say!(
        "{}: {} cores, GICv{}, {} MiB RAM, {} KiB of it for Ballast",
        board.model,
        board.cores.len(),
        board.gic.version(),
        board.ram.iter().map(|range| range.size).sum::<u64>() >> 20,
        map.own_bytes >> 10
    );
    let partitions = Partitions::parse(tree, &board)?;
    let archive = Archive::new(map.archive).map_err(|error| one(error.into()))?;
    let plan = BootPlan::new(&board, tree, partitions, &archive, &map.held)?;

    let system = partition(board, tree, plan, &map).map_err(one)?;
    speculation::init(system.board.psci);
    let core = smp::start_all(&system.board, system.gic, image.start).map_err(one)?;
    let cpu = percpu::current();
    system.channels.zero(cpu);
    system.route_own();
    if let Some(console) = system
        .board
        .console
        .as_ref()
        .and_then(|console| console.intid)
    {
        system.gic.enable(cpu.index, console);
    }
    system.terminal.pump(system, cpu);
    system.terminal.listen();
    for guest in &system.guests {
        guest.start(system, cpu, Origin::Boot);
    }
    Ok(core)
}

/// Frame table, guests and their memory: the plan made real. A stack frame of its own: it is large.
#[inline(never)]
fn partition(
    board: Board,
    tree: &'static DeviceTree<'static>,
    plan: BootPlan,
    map: &memory::Map,
) -> Result<&'static System, Refusal> {
    let gic = Gic::new(&board)
        .map_err(|problem| Refusal::new("interrupt controller").problem(problem))?;
    let gic: &'static Gic = Box::leak(Box::new(gic));
    let frames = if plan.scrub.at_boot {
        BootFrames::Scrub
    } else {
        BootFrames::Fresh
    };
    let mut taken = map.taken(&board);
    taken.extend(plan.channels.iter().map(|channel| channel.pa));
    let mut pool = Pool::new(&board.ram, &taken, frames)
        .map_err(|error| Refusal::new("/memory").problem(error))?;
    let channels = Channels::new(&plan.channels);
    let mut shared = Shared::default();
    let guests = guests(plan.guests, &board, &mut shared)?;
    let mut labels = Labels::new();
    let mut memory_kib = 0;
    for guest in &guests {
        let config = &guest.plan.config;
        labels.push(Label::new(config.number, &config.name));
        memory_kib += config.memory.boot_bytes >> 10;
    }
    assign_memory(&mut pool, &guests, frames)?;
    let guest_count = guests.len() as u8;
    let vgic_version = match board.gic {
        board::Gic::V2 { .. } => vgic::Version::V2,
        board::Gic::V3 { .. } => vgic::Version::V3,
    };
    let pa_range = registers::read!("ID_AA64MMFR0_EL1") as u8 & 0xf;
    let vtcr = stage2::vtcr(pa_range).ok_or_else(|| {
        Refusal::new("/cpus").problem("have a core whose physical address range is unknown")
    })?;
    let sessions = guests.iter().map(|guest| {
        let session = || TicketMutex::new(Session::new(labels.clone(), frequency()));
        guest.plan.config.control.then(session)
    });
    let console = board.console.as_ref().and_then(|console| console.intid);
    gic.share(&shared.intids, console, frequency());
    let system = system::install(System {
        scrubber: Scrubber::new(plan.scrub.mib_s, frequency()),
        scheduler: Scheduler::new(&plan.policy, &guests),
        sessions: sessions.collect(),
        gic,
        archive: map.archive,
        cores: cores(&board, &guests),
        guests: guests.into_boxed_slice(),
        channels,
        pool: TicketMutex::new(pool),
        vtcr,
        ids: IdRegisters::new(vgic_version, registers::read_id),
        terminal: terminal(labels),
        log: TicketMutex::new(EventLog::new()),
        own_bytes: map.own_bytes,
        frequency: frequency(),
        tree,
        board,
    });
    system.record(Event::Admitted {
        guests: guest_count,
        memory_kib,
    });
    Ok(system)
}

/// Apart, for the same reason.
#[inline(never)]
fn terminal(labels: Labels) -> Box<Terminal> {
    Box::new(Terminal::new(labels, frequency()))
}

/// The guests as planned, without memory. A stack frame of its own, as [`partition`]'s.
#[inline(never)]
fn guests(
    plans: Vec<GuestPlan>,
    board: &Board,
    shared: &mut Shared,
) -> Result<Vec<Guest>, Refusal> {
    let mut guests = Vec::with_capacity(plans.len());
    for (index, plan) in plans.into_iter().enumerate() {
        let config = &plan.config;
        say!(
            "guest {} {}: {} MiB (min {}, max {}), cores {:?}, kernel {}",
            config.number,
            config.name,
            config.memory.boot_bytes >> 20,
            config.memory.min_bytes >> 20,
            config.memory.max_bytes >> 20,
            plan.cores,
            config.kernel
        );
        if config.control {
            say!(
                "guest {} {} may stop and resize every guest (control)",
                config.number,
                config.name
            );
        }
        if let Some(trust) = config.trust() {
            say!("{trust}");
        }
        guests.push(Guest::new(index, plan, board, shared)?);
    }
    Ok(guests)
}

/// Claims, then memory for those that must have what they claim, for those whose frames never move,
/// and for the rest. With `scrub-at-boot` each is built at its start.
fn assign_memory(pool: &mut Pool, guests: &[Guest], frames: BootFrames) -> Result<(), Refusal> {
    for guest in guests {
        guest.memory.claim_home(pool).map_err(|pa| {
            let problem = alloc::format!("memory at {pa} cannot be its own");
            Refusal::new(&guest.plan.config.node).problem(problem)
        })?;
    }
    if frames == BootFrames::Scrub {
        return Ok(());
    }
    for rank in 0..GuestMemory::BOOT_RANKS {
        if rank + 1 == GuestMemory::BOOT_RANKS {
            for guest in guests {
                guest.memory.boot_banks(pool);
            }
        }
        for guest in guests
            .iter()
            .filter(|guest| guest.memory.boot_rank() == rank)
        {
            let pages = guest.plan.config.memory.boot_bytes / PAGE_SIZE;
            guest.memory.boot_assign(pool, pages);
        }
    }
    Ok(())
}

/// Every core with the guest that boots on it.
fn cores(board: &Board, guests: &[Guest]) -> Cores {
    let wanted: Vec<Vec<usize>> = guests
        .iter()
        .map(|guest| guest.plan.wanted_cores())
        .collect();
    let entitlements: Vec<_> = guests
        .iter()
        .zip(&wanted)
        .map(|(guest, wanted)| Entitlement {
            boot: &guest.plan.cores,
            wanted,
            min: guest.plan.config.cpus.min as u8,
            max: guest.plan.config.cpus.max as u8,
            is_fixed: guest.plan.config.realtime,
        })
        .collect();
    Cores::new(board.cores.len(), &entitlements)
}

/// Says why and turns the board off, if it can be.
fn refuse(refusals: &[Refusal]) -> ! {
    for refusal in refusals {
        say!("refused: {refusal}");
    }
    say!("no guest was started");
    power::perform(power::Action::Off);
    park()
}

/// Waits for ever, asleep.
pub fn park() -> ! {
    loop {
        aarch64_cpu::asm::wfe();
    }
}
