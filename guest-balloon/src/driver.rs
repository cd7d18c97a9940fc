//! The state machine.

mod hello;
mod release;
mod reserve;

use ballast_abi::{Order, Status, function};

use crate::front::{Clock, Hypercall, PageSource};
use crate::rate::Rate;
use crate::report::Report;

pub use hello::HelloError;

/// Entries of the first release batch of a guest in trouble, which waits for it.
const URGENT_ENTRIES: usize = 2;
/// How long a guest counts as in trouble: Ballast may still be getting memory for it from others.
const URGENT_SECONDS: u64 = 5;

/// The orders that move where none may be smaller than `least`, from the largest on.
const fn orders(least: Order) -> &'static [Order] {
    match least {
        Order::Page => &[Order::Block, Order::Pages16, Order::Page],
        Order::Pages4 => &[Order::Block, Order::Pages16, Order::Pages4],
        Order::Pages16 => &[Order::Block, Order::Pages16],
        Order::Block => &[Order::Block],
    }
}

/// What the driver wants its front to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing until the next interrupt: no timer.
    Idle,
    /// Call [`Driver::step`] again; other work may come between.
    Again,
    /// Call [`Driver::step`] at this time of the [`Clock`].
    WaitUntil(u64),
}

/// Where the driver stands with Ballast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Before [`Driver::hello`] and after [`Driver::goodbye`].
    New,
    /// Registered.
    Active,
    /// Unloading: gives back what it is granted, follows no target.
    Draining,
    /// Another driver has said HELLO: this one does nothing more.
    Stale,
    /// Ballast refused a call in a way that trying again does not mend.
    Failed(Status),
}

/// What has happened so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Pages handed over.
    pub reserved_pages: u64,
    /// Pages got back.
    pub released_pages: u64,
    /// RESERVE and RELEASE calls' batches.
    pub batches: u64,
    /// Targets fetched.
    pub targets: u64,
    /// Times the allocator strained or failed.
    pub strained: u64,
    /// Times the guest's own floor stopped it.
    pub floor: u64,
    /// Batches that found Ballast out of memory.
    pub no_memory: u64,
    /// Entries that Ballast refused for a reason that should not arise.
    pub refused: u64,
}

/// The driver.
#[derive(Debug)]
pub struct Driver {
    pub(crate) state: State,
    epoch: u64,
    target_pages: u64,
    cpu_target: u32,
    sequence: u32,
    deadline: u64,
    /// Pages held.
    reserved_pages: u64,
    rate: Rate,
    /// The last step ended in [`Next::Idle`].
    at_rest: bool,
    /// Ballast gives CPU targets.
    has_cpu_targets: bool,
    /// Ballast takes the run queue in reports.
    pub(crate) has_run_queue: bool,
    /// What was reported last.
    pub(crate) reported: Option<Report>,
    /// The guest's own page.
    granule: Order,
    /// The smallest order that moves: the guest's own page, or 2 MiB where Ballast takes no less.
    least: Order,
    /// Ballast takes no more (minimum) until the next interrupt.
    reserve_blocked: bool,
    /// Requests for blocks that failed one after the other.
    block_failures: u32,
    /// Smaller runs are asked for until then.
    no_blocks_until: u64,
    /// Ballast gives nothing more until the next interrupt.
    release_blocked: bool,
    /// Largest order worth asking Ballast for until the next interrupt.
    release_order: Order,
    /// Until then smaller runs are not asked for.
    small_runs_from: u64,
    /// The guest is in trouble until then: it takes whatever there is.
    urgent_until: u64,
    /// Entries of the next release batch, at most.
    release_entries: usize,
    counters: Counters,
}

impl Driver {
    /// A driver that has not said hello; `clock` gives the time it starts.
    #[must_use]
    pub fn new(clock: &impl Clock) -> Self {
        Self {
            state: State::New,
            epoch: 0,
            target_pages: 0,
            cpu_target: 0,
            sequence: 0,
            deadline: 0,
            reserved_pages: 0,
            rate: Rate::new(clock.now(), clock.ticks_per_second()),
            at_rest: true,
            has_cpu_targets: false,
            has_run_queue: false,
            reported: None,
            granule: Order::Page,
            least: Order::Page,
            reserve_blocked: false,
            block_failures: 0,
            no_blocks_until: 0,
            release_blocked: false,
            release_order: Order::Block,
            small_runs_from: 0,
            urgent_until: 0,
            release_entries: ballast_abi::LIST_ENTRIES,
            counters: Counters::default(),
        }
    }

    /// Where the driver stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Pages of the guest's maximum that this driver holds reserved.
    #[must_use]
    pub fn reserved_pages(&self) -> u64 {
        self.reserved_pages
    }

    /// Pages that it shall hold.
    #[must_use]
    pub fn target_pages(&self) -> u64 {
        self.target_pages
    }

    /// CPUs the guest shall have online; 0 if Ballast gives no such target.
    #[must_use]
    pub fn cpu_target(&self) -> u32 {
        self.cpu_target
    }

    /// When the target shall be reached: an absolute CNTVCT value, 0 for none.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Sequence number of the target fetched last.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Epoch of this driver's registration.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How fast it reserves now, in pages a second.
    #[must_use]
    pub fn pages_per_second(&self) -> u64 {
        self.rate.pages_per_second()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Fetches the target (which lowers the interrupt). Then [`Self::step`].
    pub fn on_interrupt(&mut self, front: &mut impl Hypercall) {
        if !matches!(self.state, State::Active | State::Draining) {
            return;
        }
        let [x0, target, sequence_and_cpus, deadline] = front.call(function::TARGET, 0, 0);
        match Status::from_register(x0) {
            Some(Status::Success) => {}
            // Level-triggered: it comes again.
            Some(Status::Busy) => return,
            status => return self.fail(status.unwrap_or(Status::NotSupported)),
        }
        self.target_pages = target;
        self.sequence = sequence_and_cpus as u32;
        self.cpu_target = if self.has_cpu_targets {
            (sequence_and_cpus >> 32) as u32
        } else {
            0
        };
        self.deadline = deadline;
        self.counters.targets += 1;
        self.reserve_blocked = false;
        self.ask_for_blocks();
    }

    /// Release begins anew.
    fn ask_for_blocks(&mut self) {
        self.release_blocked = false;
        self.release_order = Order::Block;
        self.release_entries = ballast_abi::LIST_ENTRIES;
        self.small_runs_from = 0;
    }

    /// One batch towards the target.
    pub fn step<F: Hypercall + PageSource + Clock>(&mut self, front: &mut F) -> Next {
        let goal = match self.state {
            State::Active => self.target_pages,
            State::Draining => 0,
            State::New | State::Stale | State::Failed(_) => return Next::Idle,
        };
        let (to_reserve, to_release) = (
            self.whole(goal.saturating_sub(self.reserved_pages)),
            self.whole(self.reserved_pages.saturating_sub(goal)),
        );
        let next = if to_reserve > 0 && !self.reserve_blocked {
            let now = front.now();
            if self.at_rest {
                self.rate.resume(now);
            }
            self.reserve(front, to_reserve, now)
        } else if to_release > 0 && !self.release_blocked {
            self.release(front, to_release)
        } else {
            Next::Idle
        };
        self.at_rest = next == Next::Idle;
        next
    }

    /// The guest is in trouble: asks Ballast for `need` pages at once. How many are on their way, to be got
    /// by [`Self::step`].
    pub fn pressure<F: Hypercall + Clock>(&mut self, front: &mut F, need: u64) -> u64 {
        if self.state != State::Active {
            return 0;
        }
        self.rate.pressure();
        let [x0, target, ..] = front.call(function::PRESSURE, need, 0);
        if Status::from_register(x0) == Some(Status::Success) {
            self.target_pages = target;
            let lasts = self.rate.ticks_per_second().saturating_mul(URGENT_SECONDS);
            self.urgent_until = front.now().saturating_add(lasts);
            self.ask_for_blocks();
            self.release_entries = URGENT_ENTRIES;
        }
        self.reserved_pages.saturating_sub(self.target_pages)
    }

    /// From now on gives everything back: [`Self::step`] until it says [`Next::Idle`]. What is held then
    /// Ballast does not grant; it stays reserved for a successor to adopt.
    pub fn drain(&mut self) {
        if self.state == State::Active {
            self.state = State::Draining;
            self.ask_for_blocks();
        }
    }

    /// Leaves: the list page is the front's again. What is held stays reserved.
    pub fn goodbye(&mut self, front: &mut impl Hypercall) {
        if matches!(self.state, State::Active | State::Draining) {
            // An answer would change nothing: if it is refused another driver is there already.
            front.call(function::GOODBYE, self.epoch, 0);
            self.state = State::New;
        }
    }

    /// A number of pages as this guest may move them.
    fn whole(&self, pages: u64) -> u64 {
        pages - pages % self.least.pages()
    }

    fn fail(&mut self, status: Status) {
        self.state = match status {
            Status::WrongEpoch | Status::NoDriver => State::Stale,
            other => State::Failed(other),
        };
    }

    /// After a batch: what an answer for the whole of it means. `Ok` goes on.
    fn judge(&mut self, answer: Result<(), Status>, now: u64) -> Next {
        match answer {
            Ok(()) => Next::Again,
            Err(Status::Busy) => Next::WaitUntil(self.rate.back_off_until(now)),
            Err(status) => {
                self.fail(status);
                Next::Idle
            }
        }
    }
}
