//! From start to end: registration, then events until somebody ends the program.

use std::fs;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ballast_balloon::abi::Order;
use ballast_balloon::{Clock, Cpus, Driver, Next, Report, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Arguments;
use crate::canary::Canary;
use crate::front::{Front, bytes_of};
use crate::line::Line;
use crate::memory::{Events, Memory, ram};
use crate::pool::Pool;
use crate::pressure::{self, Trigger};
use crate::queue::Queue;

/// Pages in a MiB.
const MIB: u64 = 256;
/// What is asked for beyond the floor in trouble: 32 MiB.
const SPARE: u64 = 32 * MIB;
/// How long trouble is looked after once the kernel has said there is some, and how often. In microseconds.
const TROUBLE: u64 = 5_000_000;
const TROUBLE_PERIOD: u64 = 100_000;
/// Between two reports while they differ: 1/4 s, in microseconds.
const REPORT_PERIOD: u64 = 250_000;

/// Runs the balloon until it fails, or was only to drain.
pub fn run(arguments: &Arguments) -> Result<()> {
    let memory = Memory::now()?;
    ensure!(
        memory.contiguous == 0,
        "the kernel keeps {} MiB for contiguous allocations (CmaTotal), for which it moves pages, and so reads them: \
         boot with cma=0",
        memory.contiguous / MIB
    );
    let floor = arguments
        .floor_mib
        .map_or((memory.total / 16).max(16 * MIB), |mib| mib * MIB);
    let line = Line::open(&arguments.device)?;
    let ram = ram()?;
    let pool = Pool::open(&arguments.pool, bytes_of(&ram))?;
    // To be ended for want of memory would help nobody: its memory is elsewhere.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let mut balloon = Balloon::new(Front::new(line, pool, ram, floor))?;
    if arguments.drain {
        balloon.drain()
    } else {
        balloon.follow()
    }
}

/// What the kernel has said.
struct Said {
    /// Tasks wait for memory.
    is_pressed: bool,
    /// There is none.
    is_out: bool,
}

fn start_canary() -> Option<Canary> {
    let started = Canary::new();
    started
        .inspect_err(|error| eprintln!("ballast-user-balloon: {error:#}"))
        .ok()
}

/// The driver and what it works with.
struct Balloon {
    front: Front,
    driver: Driver,
    cpus: Cpus,
    queue: Queue,
    /// Refaults at the last look, and when that was.
    refaults: Option<(u64, u64)>,
    /// The kernel has lately said that tasks wait for memory, or that there is none.
    trouble_until: u64,
}

/// What says so.
struct Triggers {
    memory: Option<Trigger>,
    /// Threads wait for a CPU: the report is looked at.
    cpu: Option<Trigger>,
}

impl Balloon {
    /// Registers.
    fn new(mut front: Front) -> Result<Self> {
        let mut driver = Driver::new(&front);
        if let Err(error) = driver.hello(&mut front) {
            let why = front.failure.take();
            return Err(why.unwrap_or_else(|| anyhow!("Ballast does not take it: {error:?}")));
        }
        let swept = front.pool.sweep();
        eprintln!(
            "ballast-user-balloon: epoch {}: {} MiB reserved, of which {} MiB are not the pool's; {swept} pages of a \
             predecessor returned; target {} MiB",
            driver.epoch(),
            driver.reserved_pages() / MIB,
            front.missing_pages / MIB,
            driver.target_pages() / MIB
        );
        Ok(Self {
            front,
            driver,
            cpus: Cpus::new(),
            queue: Queue::default(),
            refaults: None,
            trouble_until: 0,
        })
    }

    /// Follows the target.
    fn follow(&mut self) -> Result<()> {
        let memory = Trigger::memory()
            .inspect_err(|error| {
                eprintln!("ballast-user-balloon: pressure is not seen: {error:#}");
            })
            .ok();
        let triggers = Triggers {
            memory,
            cpu: Queue::trigger(),
        };
        let mut canary = start_canary();
        let mut settled = None;
        loop {
            let report_at = self.report()?;
            let moves = self.move_all()?;
            let now = (self.driver.reserved_pages(), self.driver.target_pages());
            if moves.is_none() && settled != Some(now) {
                settled = Some(now);
                eprintln!(
                    "ballast-user-balloon: holds {} MiB of {}",
                    now.0 / MIB,
                    now.1 / MIB
                );
            }
            let look_at =
                (self.front.now() < self.trouble_until).then(|| self.front.now() + TROUBLE_PERIOD);
            let until = [moves, report_at, look_at].into_iter().flatten().min();
            let said = self.wait(Some(&triggers), canary.as_ref(), until)?;
            if said.is_pressed || said.is_out {
                self.trouble_until = self.front.now() + TROUBLE;
            }
            if self.front.now() < self.trouble_until {
                self.relieve()?;
            }
            if said.is_out {
                // What was asked for comes first: the next one takes memory, too.
                self.move_all()?;
                drop(canary.take());
                canary = start_canary();
            }
            if self.front.line.take_event()? {
                self.driver.on_interrupt(&mut self.front);
            }
        }
    }

    /// Gives back what Ballast grants, and leaves.
    fn drain(&mut self) -> Result<()> {
        self.driver.drain();
        while let Some(at) = self.move_all()? {
            self.wait(None, None, Some(at))?;
        }
        self.driver.goodbye(&mut self.front);
        eprintln!(
            "ballast-user-balloon: {} MiB stay reserved",
            self.driver.reserved_pages() / MIB
        );
        Ok(())
    }

    /// Moves memory and CPUs as far as they go now. When there is more to do.
    fn move_all(&mut self) -> Result<Option<u64>> {
        loop {
            self.cpus.follow(&self.driver);
            let nexts = [
                self.driver.step(&mut self.front),
                self.cpus.step(&mut self.front),
            ];
            if let Some(failure) = self.front.failure.take() {
                return Err(failure);
            }
            match self.driver.state() {
                State::New | State::Active | State::Draining => {}
                State::Stale => bail!("another balloon driver has said hello"),
                State::Failed(status) => bail!("Ballast refuses: {status:?}"),
            }
            if self.front.line.take_event()? {
                self.driver.on_interrupt(&mut self.front);
                continue;
            }
            if !nexts.contains(&Next::Again) {
                let times = nexts.into_iter().filter_map(|next| match next {
                    Next::WaitUntil(at) => Some(at),
                    Next::Idle | Next::Again => None,
                });
                return Ok(times.min());
            }
        }
    }

    /// In trouble: asks Ballast for memory if less is available than shall be.
    fn relieve(&mut self) -> Result<()> {
        let headroom = self.front.floor_pages + SPARE;
        let need = headroom.saturating_sub(Memory::now()?.available);
        let need = need.next_multiple_of(Order::Block.pages());
        if need > 0 && self.driver.reserved_pages() > 0 {
            self.driver.pressure(&mut self.front, need);
        }
        Ok(())
    }

    /// Sleeps until Ballast or the kernel says something, or the time has come.
    fn wait(
        &mut self,
        triggers: Option<&Triggers>,
        canary: Option<&Canary>,
        until: Option<u64>,
    ) -> Result<Said> {
        let left = until.map(|at| at.saturating_sub(self.front.now()));
        let left = left.map(|us| Timespec {
            tv_sec: (us / 1_000_000).cast_signed(),
            tv_nsec: (us % 1_000_000 * 1000).cast_signed(),
        });
        let line = &self.front.line;
        let mut fds = vec![PollFd::new(line, PollFlags::IN)];
        // In the place of what is not there, the line for nothing.
        for trigger in [
            triggers.and_then(|triggers| triggers.memory.as_ref()),
            triggers.and_then(|triggers| triggers.cpu.as_ref()),
        ] {
            fds.push(
                trigger.map_or(PollFd::new(line, PollFlags::empty()), |trigger| {
                    PollFd::new(trigger, PollFlags::PRI)
                }),
            );
        }
        fds.push(
            canary.map_or(PollFd::new(line, PollFlags::empty()), |canary| {
                PollFd::new(canary, PollFlags::empty())
            }),
        );
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let fired = |index: usize| fds.get(index).map_or(PollFlags::empty(), PollFd::revents);
        let said = Said {
            is_pressed: fired(1).contains(PollFlags::PRI),
            is_out: canary.is_some() && fired(3).contains(PollFlags::HUP),
        };
        if !fired(0).is_empty() {
            self.front.line.fill()?;
        }
        Ok(said)
    }

    /// Tells Ballast how the guest fares, if that is news; when to look again.
    fn report(&mut self) -> Result<Option<u64>> {
        let (now, memory) = (self.front.now(), Memory::now()?);
        let refaults = Events::now()?.refaults;
        let rate = self.refaults.map_or(0, |(was, at)| {
            refaults.saturating_sub(was) * 1_000_000 / now.saturating_sub(at).max(1)
        });
        self.refaults = Some((refaults, now));
        let report = Report {
            free_pages: memory.free,
            available_pages: memory.available,
            pressure: pressure::now(),
            refaults: rate,
            runnable_milli: self.queue.now(),
        };
        let is_news = self.driver.report(&mut self.front, report);
        Ok(is_news.then_some(now + REPORT_PERIOD))
    }
}
