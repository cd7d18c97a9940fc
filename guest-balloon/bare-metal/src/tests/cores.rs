//! A guest whose CPUs come and go by Ballast's target while all of them have much to do.
//!
//! Each core but the first has a timer tick every millisecond, or `ticks=N` a second. With a channel "bell" two such guests ring each other's
//! doorbell as fast as they answer; doorbell and balloon interrupt are routed to the highest core, the one that leaves
//! next, and are routed away only after it has left. The first core looks each second whether every other one ticks
//! and answers SGIs, and whether the bell still rings: one lost interrupt ends the ringing for good.
//!
//! With `jobs=N` it has so many jobs to run, all the time or, with `period-s` and `turn`, every other so many seconds by
//! the board's counter, which all guests share. It reports what is free and how many jobs run or wait to run.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTV_CTL_EL0, CNTV_CVAL_EL0, Writeable};
use ballast_balloon::abi::Status;
use ballast_balloon::{Cpus, Driver, Next, Report};
use spin::Once;

use super::channel::{Line, call};
use super::{Outcome, Why, balloon, why};
use crate::balloon::Front;
use crate::cpu::{self, MAX_CPUS};
use crate::exception::{BALLOON_CALLS, BALLOON_INTERRUPT};
use crate::hotplug::{self, Hotplug, LOOK};
use crate::machine::Machine;
use crate::pages::State;
use crate::{ensure, gic, jobs, println, traces};

/// SGI that a core counts.
const COUNT: u32 = 4;
/// How long a core or the bell may be silent.
const SILENCE_S: u32 = 20;
const TICKS_PER_SECOND: u64 = 1000;

/// Ticks a second of the other cores: `ticks=N`.
static TICKS: AtomicU64 = AtomicU64::new(TICKS_PER_SECOND);

static BELL: Once<Line> = Once::new();
/// Interrupts of the bell that somebody has taken care of.
static HEARD: AtomicU64 = AtomicU64::new(0);
/// Rings answered.
static RINGS: AtomicU64 = AtomicU64::new(0);
/// SGIs [`COUNT`] sent to each core.
static SENT: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn bell_has_rung() -> bool {
    BELL.get()
        .is_some_and(|bell| bell.interrupts() != HEARD.load(Ordering::Acquire))
}

/// Answers the other guest's ring, if no other core does.
fn answer() -> Outcome {
    let Some(bell) = BELL.get() else {
        return Ok(());
    };
    let (seen, heard) = (bell.interrupts(), HEARD.load(Ordering::Acquire));
    let is_mine = seen != heard
        && HEARD
            .compare_exchange(heard, seen, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
    if is_mine && bell.fetch()?.rung() {
        RINGS.fetch_add(1, Ordering::AcqRel);
        return ring(bell);
    }
    Ok(())
}

fn ring(bell: &Line) -> Outcome {
    match bell.channel.ring(call) {
        Ok(()) | Err(Status::PeerStopped) => Ok(()),
        Err(status) => Err(why(format_args!("ring: {status:?}"))),
    }
}

/// What each core but the first does.
fn work(index: usize) {
    traces::tidy();
    traces::look();
    gic::get().enable(gic::VIRTUAL_TIMER);
    hotplug::arrived(index);
    let this = cpu::this();
    let period = cpu::frequency() / TICKS.load(Ordering::Relaxed).max(1);
    while !hotplug::must_leave(index) {
        let ticks = this.timer_ticks.load(Ordering::Acquire);
        CNTV_CVAL_EL0.set(cpu::counter() + period);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
        let is_called = || {
            this.timer_ticks.load(Ordering::Acquire) != ticks
                || hotplug::must_leave(index)
                || bell_has_rung()
        };
        while !is_called() && jobs::piece() {}
        cpu::sleep_until(is_called);
        if let Err(why) = answer() {
            println!("FAIL cores: {why}");
        }
        // The first core sleeps, and this one may have taken its interrupt.
        if BALLOON_CALLS.load(Ordering::Acquire) {
            gic::get().send_sgi(LOOK, 0);
        }
    }
    if hotplug::leaves_traces() {
        traces::leave(index);
    }
}

/// What the first core knows of the others.
struct Watch {
    due: u64,
    ticks: [u64; MAX_CPUS],
    silent: [u32; MAX_CPUS],
    rings: u64,
    without_ring: u32,
    pieces: u64,
}

impl Watch {
    fn new() -> Self {
        Self {
            due: cpu::counter() + cpu::frequency(),
            ticks: [0; MAX_CPUS],
            silent: [0; MAX_CPUS],
            rings: 0,
            without_ring: 0,
            pieces: 0,
        }
    }

    /// Once a second: whether every core that is here ticks and has taken its SGIs, and the bell rings.
    fn look(&mut self, moves: u64) -> Outcome {
        if cpu::counter() < self.due {
            return Ok(());
        }
        self.due = cpu::counter() + cpu::frequency();
        for (index, sent) in SENT.iter().enumerate().skip(1) {
            let core = cpu::of(index);
            let ticks = core.timer_ticks.load(Ordering::Acquire);
            let taken = core.sgis[COUNT as usize].load(Ordering::Acquire);
            let asked = sent.load(Ordering::Acquire);
            let is_well = ticks != self.ticks[index] && taken == asked;
            if !hotplug::is_here(index) || is_well {
                self.silent[index] = 0;
            } else {
                self.silent[index] += 1;
            }
            ensure!(
                self.silent[index] < SILENCE_S,
                "core {index} is stuck: {ticks} ticks, {taken} SGIs of {asked}"
            );
            self.ticks[index] = ticks;
            if hotplug::is_here(index) && is_well {
                sent.store(asked + 1, Ordering::Release);
                gic::get().send_sgi(COUNT, index);
            }
        }
        let rings = RINGS.load(Ordering::Acquire);
        self.without_ring = if rings == self.rings && rings != 0 {
            self.without_ring + 1
        } else {
            0
        };
        let fresh = rings - self.rings;
        self.rings = rings;
        ensure!(
            self.without_ring < SILENCE_S,
            "no ring since {rings}: an interrupt was lost"
        );
        let found = traces::found();
        ensure!(found == 0, "a core came with traces of another: {found:#x}");
        println!("cores alive moves={moves} rings=+{fresh}");
        let pieces = jobs::pieces();
        if pieces != self.pieces {
            println!("cores pieces=+{}", pieces - self.pieces);
            self.pieces = pieces;
        }
        Ok(())
    }
}

/// Routes what can be routed to the core that will leave next.
fn route(machine: &Machine) {
    let to = hotplug::highest();
    let mpidr = machine.cpus.get(to).copied().unwrap_or(0);
    let balloon = BALLOON_INTERRUPT.load(Ordering::Relaxed) as u32;
    gic::get().route(balloon, to, mpidr);
    for channel in &machine.channels {
        gic::get().route(channel.interrupt, to, mpidr);
    }
}

/// The first ring; until the other guest is there to hear it.
fn ring_first(machine: &Machine) -> Result<bool, Why> {
    let (Some(bell), Some(1)) = (BELL.get(), machine.arg_number("guest")) else {
        return Ok(true);
    };
    Ok(bell.channel.ring(call).is_ok())
}

/// How many jobs there are now, by the boot arguments.
fn jobs_now(machine: &Machine) -> u32 {
    let jobs = machine.arg_number("jobs").unwrap_or(0) as u32;
    let (Some(period), turn) = (
        machine.arg_number("period-s").filter(|period| *period != 0),
        machine.arg_number("turn").unwrap_or(0),
    ) else {
        return jobs;
    };
    let seconds = cpu::counter() / cpu::frequency().max(1);
    if seconds / period % 2 == turn {
        jobs
    } else {
        0
    }
}

fn report(front: &mut Front, driver: &mut Driver) {
    let free = front.pages.count(State::Free);
    let report = Report {
        free_pages: free,
        available_pages: free,
        runnable_milli: jobs::runnable_milli(),
        ..Report::default()
    };
    driver.report(front, report);
}

/// Serves targets for ever.
pub fn serve(machine: &Machine) -> Outcome {
    traces::init(machine.arg_number("guest").unwrap_or(1));
    hotplug::leave_traces(machine.arg("traces") == Some("yes"));
    let recognised = traces::are_recognised();
    println!("cores: traces in {recognised:?} registers are recognised");
    ensure!(recognised.is_some_and(|count| count > 8), "{recognised:?}");
    let ticks = machine.arg_number("ticks").unwrap_or(TICKS_PER_SECOND);
    TICKS.store(ticks, Ordering::Relaxed);
    let (mut front, mut driver) = balloon::register(machine)?;
    if machine.channels.iter().any(|c| c.label == "bell") {
        let line = Line::open(machine, "bell")?;
        // What happened before is nobody's ring.
        HEARD.store(line.interrupts(), Ordering::Release);
        let is_rung = line.fetch()?.rung();
        BELL.call_once(|| line);
        if is_rung {
            RINGS.fetch_add(1, Ordering::AcqRel);
            BELL.get().map_or(Ok(()), ring)?;
        }
    }
    let mut hotplug = Hotplug { machine, work };
    let (mut cpus, mut watch) = (Cpus::new(), Watch::new());
    let (mut has_rung, mut said) = (false, None);
    let mut audited_pages = driver.target_pages();
    report(&mut front, &mut driver);
    loop {
        let is_asked = BALLOON_CALLS.swap(false, Ordering::AcqRel);
        if is_asked {
            driver.on_interrupt(&mut front);
            if let Some(node) = &machine.balloon {
                gic::get().enable(node.interrupt);
            }
        }
        let memory = driver.step(&mut front);
        if jobs::set(jobs_now(machine)) || is_asked {
            report(&mut front, &mut driver);
        }
        cpus.follow(&driver);
        let moved = cpus.step(&mut hotplug);
        route(machine);
        answer()?;
        let counters = cpus.counters();
        watch.look(counters.taken_offline + counters.brought_online)?;
        has_rung = has_rung || ring_first(machine)?;
        if (memory, moved) == (Next::Idle, Next::Idle) && said != Some(driver.sequence()) {
            said = Some(driver.sequence());
            if driver.target_pages() != audited_pages {
                audited_pages = driver.target_pages();
                crate::balloon::audit(&mut front, &driver)?;
            }
            println!(
                "cores settled online={} target={} off={} on={} denied={} failed={} rings={}",
                1 + (1..MAX_CPUS).filter(|i| hotplug::is_here(*i)).count(),
                driver.cpu_target(),
                counters.taken_offline,
                counters.brought_online,
                counters.denied,
                counters.failed,
                RINGS.load(Ordering::Acquire)
            );
        }
        let mut due = watch.due;
        for next in [memory, moved] {
            due = match next {
                Next::Idle => due,
                Next::Again => 0,
                Next::WaitUntil(at) => due.min(at),
            };
        }
        if due > cpu::counter() {
            let ticks = cpu::this().timer_ticks.load(Ordering::Acquire);
            CNTV_CVAL_EL0.set(due);
            CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
            let is_called = || {
                cpu::this().timer_ticks.load(Ordering::Acquire) != ticks
                    || BALLOON_CALLS.load(Ordering::Acquire)
                    || bell_has_rung()
            };
            while !is_called() && jobs::piece() {}
            cpu::sleep_until(is_called);
        }
    }
}
