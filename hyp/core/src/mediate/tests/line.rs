//! The shared interrupt in a world of prompt, slow, silent and noisy guests.

use super::super::line::{BURST, Line, REFILL, Report, Steps};
use proptest::prelude::*;

const LIMIT: u64 = 1000;

#[test]
fn every_holder_gets_it_and_it_waits_for_all() {
    let mut line = Line::new(LIMIT, false);
    assert_eq!(line.listen(0, true, 0).physical, Some(true));
    let _ = line.listen(2, true, 0);
    let steps = line.fired(10);
    assert_eq!(
        steps,
        Steps {
            physical: Some(false),
            deliver: 0b101,
            tick_at: Some(10 + LIMIT),
            report: None,
        }
    );
    assert_eq!(line.handled(0, 11).physical, None);
    assert_eq!(line.handled(2, 12).physical, Some(true));
}

#[test]
fn one_who_does_not_listen_is_not_waited_for() {
    let mut line = Line::new(LIMIT, false);
    let _ = line.listen(0, true, 0);
    assert_eq!(line.fired(10).deliver, 0b1);
    assert_eq!(line.handled(0, 11).physical, Some(true));
    // The last to listen turns it off, and what is held back stays so.
    let _ = line.fired(20);
    assert_eq!(line.listen(0, false, 21).physical, Some(false));
    assert_eq!(line.listen(0, true, 22).physical, Some(true));
}

#[test]
fn ballast_alone_is_not_held_back() {
    let mut line = Line::new(LIMIT, true);
    let steps = line.fired(5);
    assert_eq!(
        (steps.physical, steps.deliver, steps.tick_at),
        (Some(true), 0, None)
    );
}

#[test]
fn one_who_is_late_is_not_waited_for_and_throttles_nobody() {
    let mut line = Line::new(LIMIT, false);
    let _ = line.listen(0, true, 0);
    let _ = line.listen(1, true, 0);
    let _ = line.fired(0);
    let _ = line.handled(0, 1);
    assert_eq!(line.tick(LIMIT - 1).tick_at, Some(LIMIT));
    let steps = line.tick(LIMIT);
    assert_eq!(steps.physical, Some(true));
    assert_eq!(steps.report, Some(Report::Late(0b10)));
    assert_eq!(line.late(), 0b10);
    // It goes on at once, and not to the late one, which has it already. That is said once.
    for n in 1..10 {
        let now = LIMIT + 200 * n;
        let steps = line.fired(now);
        assert_eq!((steps.deliver, steps.report), (0b01, None));
        assert_eq!(line.handled(0, now + 20).physical, Some(true));
    }
    // It comes round: as before.
    assert_eq!(line.handled(1, 5 * LIMIT), Steps::default());
    assert_eq!(line.fired(6 * LIMIT).deliver, 0b11);
    let _ = line.handled(0, 6 * LIMIT);
    assert_eq!(line.tick(7 * LIMIT).report, None);
    assert_eq!(line.handled(1, 8 * LIMIT), Steps::default());
}

/// Nobody would be told: the core that serves it is left alone, however long the line stays high.
#[test]
fn a_line_whose_guests_are_all_late_costs_nothing() {
    let mut line = Line::new(LIMIT, false);
    let _ = line.listen(0, true, 0);
    let _ = line.fired(0);
    let steps = line.tick(LIMIT);
    assert_eq!((steps.physical, steps.tick_at), (None, None));
    assert_eq!(line.tick(50 * LIMIT), Steps::default());
    assert_eq!(line.handled(0, 60 * LIMIT).physical, Some(true));
    assert_eq!(line.fired(60 * LIMIT).deliver, 0b1);
}

/// A device that never lowers the line, in the hands of a guest that ends what it gets at once.
#[test]
fn a_line_that_is_held_high_comes_once_in_a_limit() {
    let mut line = Line::new(LIMIT, false);
    let _ = line.listen(0, true, 0);
    let (mut now, mut fired, mut reports) = (0, 0, Vec::new());
    let mut passes = true;
    while now < 1000 * LIMIT {
        let raised = line.fired(now);
        reports.extend(raised.report);
        passes = raised.physical.unwrap_or(passes);
        passes = line.handled(0, now + 1).physical.unwrap_or(passes);
        fired += 1;
        now += 2;
        if !passes {
            now += LIMIT;
            passes = line.tick(now).physical.unwrap_or(passes);
        }
        assert!(passes);
    }
    assert!((1000..1000 + BURST + REFILL).contains(&fired), "{fired}");
    assert_eq!(reports, [Report::Storm]);
    // It ends, and with it the throttling.
    now += 3 * LIMIT;
    for n in 0..BURST {
        let _ = line.fired(now);
        now += 1;
        let steps = line.handled(0, now);
        assert_eq!(steps.physical, (n + 1 < BURST).then_some(true), "{n}");
    }
}

/// How a guest behaves.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Handles what it gets after this long, device included.
    Prompt(u64),
    /// Ends what it gets at once, but its device stays asserted for ever.
    Noisy,
    /// Never ends what it gets.
    Silent,
    /// Stops listening and listens again, every so often, and never ends anything.
    Fickle(u64),
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        (1..LIMIT).prop_map(Manner::Prompt),
        Just(Manner::Noisy),
        Just(Manner::Silent),
        (1..3 * LIMIT).prop_map(Manner::Fickle),
    ]
}

struct World {
    line: Line,
    /// Whether the physical interrupt passes.
    passes: bool,
    tick_at: Option<u64>,
    now: u64,
    /// Per guest: has it pending since.
    pending: Vec<Option<u64>>,
    fired_at: Vec<u64>,
    delivered: Vec<Vec<u64>>,
}

impl World {
    fn apply(&mut self, steps: Steps) {
        if let Some(passes) = steps.physical {
            self.passes = passes;
        }
        for guest in 0..self.pending.len() {
            if steps.deliver >> guest & 1 != 0 {
                assert!(self.pending[guest].is_none(), "delivered on top of itself");
                self.pending[guest] = Some(self.now);
                self.delivered[guest].push(self.now);
            }
        }
        self.tick_at = match (self.tick_at, steps.tick_at) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }
}

proptest! {
    /// A guest that handles what it gets learns of its device within a limit, whatever the others do,
    /// and the interrupt never fires more often than the bound.
    #[test]
    fn none_is_silenced_or_drowned(
        manners in prop::collection::vec(manner(), 0..4),
        own_delay in 1..LIMIT / 2,
        asserts in prop::collection::vec(1..5 * LIMIT, 1..20),
        is_own: bool,
    ) {
        // Guest 0 is the one that is looked after: prompt, with a device that asserts now and then.
        let mut manners = manners;
        manners.insert(0, Manner::Prompt(own_delay));
        let count = manners.len();
        let mut world = World {
            line: Line::new(LIMIT, is_own),
            passes: is_own,
            tick_at: None,
            now: 0,
            pending: vec![None; count],
            fired_at: Vec::new(),
            delivered: vec![Vec::new(); count],
        };
        for guest in 0..count {
            let steps = world.line.listen(guest, true, 0);
            world.apply(steps);
        }
        let mut asserts = asserts;
        let mut device_since = None;
        let mut next_assert = asserts.pop();
        let end = 60 * LIMIT;
        while world.now < end {
            // Devices: guest 0's when its time has come, noisy ones always.
            if device_since.is_none() && next_assert.is_some_and(|at| at <= world.now) {
                device_since = Some(world.now);
                next_assert = None;
            }
            let noise = manners.iter().any(|m| matches!(m, Manner::Noisy));
            if world.passes && (device_since.is_some() || noise) {
                world.fired_at.push(world.now);
                let now = world.now;
                let steps = world.line.fired(now);
                world.apply(steps);
            }
            if let Some(since) = device_since {
                prop_assert!(
                    world.pending[0].is_some() || world.now - since <= LIMIT,
                    "guest 0 was not told for {} ticks", world.now - since
                );
            }
            for (guest, manner) in manners.iter().enumerate() {
                let Some(since) = world.pending[guest] else { continue };
                let age = world.now - since;
                let done = match *manner {
                    Manner::Prompt(delay) => age >= delay,
                    Manner::Noisy => true,
                    Manner::Silent | Manner::Fickle(_) => false,
                };
                if done {
                    world.pending[guest] = None;
                    if guest == 0 && device_since.take().is_some() {
                        next_assert = asserts.pop().map(|after| world.now + after);
                    }
                    let now = world.now;
                    let steps = world.line.handled(guest, now);
                    world.apply(steps);
                }
                if let Manner::Fickle(period) = *manner
                    && age >= period
                {
                    // Its controller drops what was pending.
                    world.pending[guest] = None;
                    for listens in [false, true] {
                        let now = world.now;
                        let steps = world.line.listen(guest, listens, now);
                        world.apply(steps);
                    }
                }
            }
            if world.tick_at.is_some_and(|at| at <= world.now) {
                world.tick_at = None;
                let now = world.now;
                let steps = world.line.tick(now);
                world.apply(steps);
            }
            world.now += 1;
        }
        prop_assert!(device_since.is_none_or(|since| end - since <= 2 * LIMIT), "lost");
        for (n, first) in world.fired_at.iter().enumerate() {
            let burst = world.fired_at[n..].iter().take_while(|at| *at - first < LIMIT).count();
            let most = (BURST + REFILL + 1) as usize;
            prop_assert!(burst <= most, "fired {burst} times within a limit");
        }
    }

    /// Any order of calls: while nothing is held back the physical interrupt passes exactly if somebody
    /// wants it, and what is held back has a time at which it is let go, or nobody who would be told.
    #[test]
    fn it_is_always_let_through_again(
        is_own: bool,
        calls in prop::collection::vec((0..4, 0..3_usize, any::<bool>(), 0..400_u64), 1..200),
    ) {
        let mut line = Line::new(LIMIT, is_own);
        let (mut now, mut passes, mut listening) = (0, is_own, 0_u16);
        let mut wishes: Vec<u64> = Vec::new();
        for (call, guest, flag, step) in calls {
            now += step;
            let steps = match call {
                0 => line.fired(now),
                1 => line.handled(guest, now),
                2 => {
                    listening = listening & !(1 << guest) | u16::from(flag) << guest;
                    line.listen(guest, flag, now)
                }
                _ => line.tick(now),
            };
            if call == 3 {
                wishes.retain(|at| *at > now);
            }
            passes = steps.physical.unwrap_or(passes);
            wishes.extend(steps.tick_at);
            let wanted = is_own || listening != 0;
            let is_heard = is_own || listening & !line.late() != 0;
            prop_assert!(passes == wanted || !passes && (!wishes.is_empty() || !is_heard));
        }
        now += LIMIT;
        passes = line.tick(now).physical.unwrap_or(passes);
        for guest in 0..3 {
            passes = line.handled(guest, now).physical.unwrap_or(passes);
        }
        prop_assert_eq!(passes, is_own || listening != 0);
    }
}
