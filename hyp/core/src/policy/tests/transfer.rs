use proptest::prelude::*;

use crate::policy::transfer::{Cause, Holding, Kept, Phase, Refused, Side, Transfers};

const SECOND: u64 = 1_000_000;

fn holding(blocks: u64, cpus: u32) -> Holding {
    Holding {
        pages: blocks * 512,
        cpus,
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The guest answers nothing from now on.
    Deaf,
    /// It answers again.
    Hears,
    /// It moves this much more and then no more.
    Tires(u64),
    /// It stops; what it had is free.
    Stops,
    /// It is reset: it begins anew with what it is configured with.
    Resets,
    /// It says PRESSURE.
    Trouble,
    /// Somebody asks for the opposite.
    Opposite,
    /// A third guest takes whatever it can have.
    Thief,
}

#[derive(Clone, Copy, Debug)]
struct Guest {
    has: Holding,
    target: Holding,
    is_deaf: bool,
    /// It moves this many pages more.
    breath: u64,
    /// It cannot take a core offline.
    keeps_cores: bool,
    /// It has had another life since the transfer began.
    is_new: bool,
}

struct World {
    transfers: Transfers,
    guests: Vec<Guest>,
    pool: Holding,
    thief: Holding,
    now: u64,
}

impl World {
    fn new(guests: &[Holding]) -> Self {
        let guests = guests.iter().map(|&has| Guest {
            has,
            target: has,
            is_deaf: false,
            breath: u64::MAX,
            keeps_cores: false,
            is_new: false,
        });
        Self {
            transfers: Transfers::default(),
            guests: guests.collect(),
            pool: Holding::default(),
            thief: Holding::default(),
            now: 0,
        }
    }

    fn begin(
        &mut self,
        from: usize,
        to: usize,
        amount: Holding,
        seconds: u64,
    ) -> Result<u32, Refused> {
        let side = |guest: usize| Side {
            guest,
            has: self.guests[guest].target,
            min: holding(4, 1),
            max: holding(64, 8),
        };
        let deadline = self.now + seconds * SECOND;
        let id = self
            .transfers
            .begin(side(from), side(to), amount, self.now, deadline)?;
        self.ask();
        Ok(id)
    }

    /// What the shell does with the news.
    fn ask(&mut self) {
        while let Some(transfer) = self.transfers.take_news() {
            for (guest, wish) in transfer.wishes().into_iter().flatten() {
                self.guests[guest].target = wish;
            }
        }
    }

    fn kept(&self, whom: Option<usize>) -> Holding {
        let from_whom = |kept: &Kept| Some(kept.holder) != whom;
        self.transfers.kept().filter(from_whom).fold(
            Holding::default(),
            |sum: Holding, kept: Kept| {
                let now = kept.now(self.guests[kept.giver].has, self.guests[kept.taker].has);
                Holding {
                    pages: sum.pages + now.pages,
                    cpus: sum.cpus + now.cpus,
                }
            },
        )
    }

    /// What `whom` can take, as the pool says.
    fn free_for(&self, whom: Option<usize>) -> Holding {
        let kept = self.kept(whom);
        Holding {
            pages: self.pool.pages.saturating_sub(kept.pages),
            cpus: self.pool.cpus.saturating_sub(kept.cpus),
        }
    }

    fn tick(&mut self) {
        self.now += SECOND / 10;
        for index in 0..self.guests.len() {
            let free = self.free_for(Some(index));
            let guest = &mut self.guests[index];
            if guest.is_deaf || guest.breath < 512 {
                continue;
            }
            let (has, target) = (guest.has, guest.target);
            if has.pages > target.pages {
                guest.has.pages -= 512;
                self.pool.pages += 512;
            } else if has.pages < target.pages && free.pages >= 512 {
                guest.has.pages += 512;
                self.pool.pages -= 512;
            }
            if has.pages != guest.has.pages {
                guest.breath -= 512;
            }
            if has.cpus > target.cpus && !guest.keeps_cores {
                guest.has.cpus -= 1;
                self.pool.cpus += 1;
            } else if has.cpus < target.cpus && free.cpus > 0 {
                guest.has.cpus += 1;
                self.pool.cpus -= 1;
            }
        }
        let guests = &self.guests;
        self.transfers.step(self.now, |guest| guests[guest].has);
        self.ask();
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.tick();
        }
    }

    fn phase(&self, id: u32) -> Phase {
        self.transfers
            .iter()
            .find(|transfer| transfer.id == id)
            .unwrap()
            .phase
    }

    fn cause(&self, id: u32) -> Option<Cause> {
        self.transfers.iter().find(|slot| slot.id == id)?.cause
    }

    /// What the guest has goes to the pool, and it comes back with what it is configured with.
    fn stop(&mut self, index: usize, boots_with: Option<Holding>) {
        let had = std::mem::take(&mut self.guests[index].has);
        self.pool.pages += had.pages;
        self.pool.cpus += had.cpus;
        self.transfers.stopped(index, self.now);
        let free = self.free_for(Some(index));
        let has = boots_with.map_or(Holding::default(), |boot| Holding {
            pages: boot.pages.min(free.pages),
            cpus: boot.cpus.min(free.cpus),
        });
        self.pool.pages -= has.pages;
        self.pool.cpus -= has.cpus;
        self.guests[index] = Guest {
            has,
            target: has,
            is_deaf: boots_with.is_none(),
            breath: u64::MAX,
            keeps_cores: false,
            is_new: true,
        };
    }

    fn inject(&mut self, guest: usize, fault: Fault, boots_with: Holding) {
        match fault {
            Fault::Deaf => self.guests[guest].is_deaf = true,
            Fault::Hears => {
                self.guests[guest].is_deaf = false;
                self.guests[guest].breath = u64::MAX;
            }
            Fault::Tires(pages) => self.guests[guest].breath = pages,
            Fault::Stops => self.stop(guest, None),
            Fault::Resets => self.stop(guest, Some(boots_with)),
            Fault::Trouble => {
                // What PRESSURE does: the target is given up, and what is free may be had.
                let free = self.free_for(Some(guest)).pages.min(512);
                let it = &mut self.guests[guest];
                it.target.pages = it
                    .target
                    .pages
                    .max((it.has.pages + free).min(boots_with.pages));
                let pages = it.target.pages;
                self.transfers.trouble(guest, pages, self.now);
            }
            Fault::Opposite => {
                let opposite = self.begin(1, 0, holding(1, 0), 20);
                assert!(opposite.is_err() || self.transfers.iter().count() > 1);
            }
            Fault::Thief => {
                let free = self.free_for(None);
                self.pool.pages -= free.pages;
                self.pool.cpus -= free.cpus;
                self.thief.pages += free.pages;
                self.thief.cpus += free.cpus;
            }
        }
    }

    fn sum(&self) -> Holding {
        let mut sum = Holding {
            pages: self.pool.pages + self.thief.pages,
            cpus: self.pool.cpus + self.thief.cpus,
        };
        for guest in &self.guests {
            sum.pages += guest.has.pages;
            sum.cpus += guest.has.cpus;
        }
        sum
    }
}

#[test]
fn memory_and_cores_move_together() {
    let mut world = World::new(&[holding(32, 4), holding(8, 1)]);
    let id = world.begin(0, 1, holding(16, 2), 20).unwrap();
    world.run(10);
    assert_eq!(world.phase(id), Phase::Done);
    assert_eq!(world.guests[0].has, holding(16, 2));
    assert_eq!(world.guests[1].has, holding(24, 3));
    assert_eq!(
        world.transfers.step(world.now, |_| Holding::default()),
        None
    );
}

#[test]
fn what_is_late_is_undone() {
    let mut world = World::new(&[holding(60, 4), holding(4, 1)]);
    // 50 blocks take 5 s to give; half of 6 s is not enough.
    let id = world.begin(0, 1, holding(50, 2), 6).unwrap();
    world.run(12);
    assert_eq!(world.phase(id), Phase::RolledBack);
    assert_eq!(world.cause(id), Some(Cause::Deadline));
    assert_eq!(world.guests[0].has, holding(60, 4));
    assert_eq!(world.guests[1].has, holding(4, 1));
}

#[test]
fn memory_without_its_core_goes_back() {
    let mut world = World::new(&[holding(32, 4), holding(8, 1)]);
    let id = world.begin(0, 1, holding(8, 1), 12).unwrap();
    world.guests[0].keeps_cores = true;
    world.run(2);
    assert_eq!(world.guests[0].has, holding(24, 4));
    assert_eq!(world.phase(id), Phase::Giving);
    world.run(10);
    assert_eq!(world.phase(id), Phase::RolledBack);
    assert_eq!(world.guests[0].has, holding(32, 4));
}

#[test]
fn the_second_of_two_opposite_requests_is_refused() {
    let mut world = World::new(&[holding(32, 4), holding(32, 4), holding(32, 4)]);
    let id = world.begin(0, 1, holding(8, 1), 20).unwrap();
    assert_eq!(world.begin(1, 0, holding(8, 1), 20), Err(Refused::Busy(1)));
    assert_eq!(world.begin(2, 0, holding(8, 1), 20), Err(Refused::Busy(0)));
    world.run(5);
    assert_eq!(world.phase(id), Phase::Done);
    let back = world.begin(1, 0, holding(8, 1), 20).unwrap();
    world.run(5);
    assert_eq!(world.phase(back), Phase::Done);
    assert_eq!(world.guests[0].has, holding(32, 4));
}

#[test]
fn nobody_takes_what_is_on_its_way() {
    let mut world = World::new(&[holding(32, 4), holding(8, 1)]);
    world.pool = holding(3, 1);
    let id = world.begin(0, 1, holding(16, 1), 8).unwrap();
    world.guests[1].is_deaf = true;
    for _ in 0..50 {
        world.tick();
        world.inject(0, Fault::Thief, holding(32, 4));
    }
    assert_eq!(world.thief, holding(3, 1));
    world.run(5);
    assert_eq!(world.phase(id), Phase::RolledBack);
    assert_eq!(world.guests[0].has, holding(32, 4));
    assert_eq!(world.kept(None), Holding::default());
}

#[test]
fn a_guest_that_stops_leaves_the_other_as_it_was() {
    for (stops, stays, before) in [(0, 1, holding(8, 1)), (1, 0, holding(32, 4))] {
        for after in [2, 12, 18] {
            let mut world = World::new(&[holding(32, 4), holding(8, 1)]);
            let id = world.begin(0, 1, holding(10, 1), 20).unwrap();
            (0..after).for_each(|_| world.tick());
            world.inject(stops, Fault::Stops, before);
            world.run(10);
            assert_eq!(world.phase(id), Phase::RolledBack, "{stops} {after}");
            assert_eq!(world.cause(id), Some(Cause::Stopped));
            assert_eq!(world.guests[stays].has, before);
        }
    }
}

#[test]
fn a_giver_in_trouble_gets_it_back() {
    let mut world = World::new(&[holding(32, 4), holding(8, 1)]);
    let id = world.begin(0, 1, holding(10, 1), 20).unwrap();
    (0..12).for_each(|_| world.tick());
    assert_eq!(world.phase(id), Phase::Taking);
    world.inject(0, Fault::Trouble, holding(32, 4));
    world.run(5);
    assert_eq!(world.phase(id), Phase::RolledBack);
    assert_eq!(world.cause(id), Some(Cause::Pressure));
    assert_eq!(world.guests[0].has, holding(32, 4));
    assert_eq!(world.guests[1].has, holding(8, 1));
}

#[test]
fn a_taker_in_trouble_keeps_what_that_gave_it() {
    let mut world = World::new(&[holding(32, 4), holding(8, 1)]);
    world.pool = holding(1, 0);
    let id = world.begin(0, 1, holding(10, 1), 20).unwrap();
    world.inject(1, Fault::Trouble, holding(32, 4));
    assert_eq!(world.guests[1].target, holding(9, 1));
    world.run(5);
    assert_eq!(world.phase(id), Phase::Done);
    assert_eq!(world.guests[1].has, holding(19, 2));
}

#[test]
fn the_stranded_wait_until_somebody_else_decides() {
    let mut world = World::new(&[holding(32, 4), holding(8, 1)]);
    let id = world.begin(0, 1, holding(10, 0), 8).unwrap();
    world.run(1);
    world
        .guests
        .iter_mut()
        .for_each(|guest| guest.is_deaf = true);
    world.run(10);
    assert_eq!(world.phase(id), Phase::Stranded);
    assert_eq!(world.kept(None), holding(10, 0));
    world.guests[0].is_deaf = false;
    world.run(2);
    assert_eq!(world.phase(id), Phase::RolledBack);
    assert_eq!(world.guests[0].has, holding(32, 4));

    let mut world = World::new(&[holding(32, 4), holding(8, 1)]);
    world.begin(0, 1, holding(10, 0), 8).unwrap();
    world.run(1);
    world.guests[0].is_deaf = true;
    world.guests[1].is_deaf = true;
    world.run(10);
    world.transfers.write_off(0);
    assert_eq!(world.kept(None), Holding::default());
}

/// One that keeps a core it should give back keeps that, and no more goes wrong.
#[test]
fn a_taker_that_is_silent_with_half_of_the_cores_strands_the_move() {
    let mut world = World::new(&[holding(32, 4), holding(16, 2)]);
    let id = world.begin(0, 1, holding(0, 2), 1).unwrap();
    (0..3).for_each(|_| world.tick());
    world.guests[1].is_deaf = true;
    world.run(3);
    assert_eq!(world.phase(id), Phase::Stranded);
    assert_eq!(world.guests[0].has, holding(32, 3));
    assert_eq!(world.guests[1].has, holding(16, 3));
    world.guests[1].is_deaf = false;
    world.run(1);
    assert_eq!(world.phase(id), Phase::RolledBack);
    assert_eq!(world.guests[0].has, holding(32, 4));
}

#[test]
fn bounds_are_kept() {
    let mut world = World::new(&[holding(32, 2), holding(60, 7)]);
    assert_eq!(world.begin(0, 0, holding(8, 0), 9), Err(Refused::Nothing));
    assert_eq!(world.begin(0, 1, holding(0, 0), 9), Err(Refused::Nothing));
    assert_eq!(
        world.begin(0, 1, holding(30, 0), 9),
        Err(Refused::BelowMinimum)
    );
    assert_eq!(
        world.begin(0, 1, holding(0, 2), 9),
        Err(Refused::BelowMinimum)
    );
    assert_eq!(
        world.begin(0, 1, holding(8, 0), 9),
        Err(Refused::AboveMaximum)
    );
    assert_eq!(world.begin(0, 1, holding(2, 0), 0), Err(Refused::TooLate));
}

#[test]
fn the_oldest_finished_transfer_is_forgotten_first() {
    let mut world = World::new(&[holding(32, 4), holding(32, 4)]);
    for round in 0..30 {
        let id = world
            .begin(round % 2, 1 - round % 2, holding(1, 0), 5)
            .unwrap();
        world.run(2);
        assert_eq!(world.phase(id), Phase::Done);
    }
    let ids: Vec<_> = world.transfers.iter().map(|transfer| transfer.id).collect();
    assert_eq!(ids, (22..=30).collect::<Vec<_>>());
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Deaf),
        Just(Fault::Hears),
        (0..20_u64).prop_map(|blocks| Fault::Tires(blocks * 512)),
        Just(Fault::Stops),
        Just(Fault::Resets),
        Just(Fault::Trouble),
        Just(Fault::Opposite),
        Just(Fault::Thief),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// Anything goes wrong at any tick: all or nothing, unless a guest is silent to the end.
    #[test]
    fn all_or_nothing_with_a_fault_at_any_step(
        pages in 0..24_u64,
        cpus in 0..3_u32,
        seconds in 1..12_u64,
        faults in prop::collection::vec((0..140_usize, 0..2_usize, any_fault()), 0..5),
    ) {
        let before = [holding(32, 4), holding(16, 2)];
        let mut world = World::new(&before);
        let amount = holding(pages, cpus);
        let Ok(id) = world.begin(0, 1, amount, seconds) else {
            return Ok(());
        };
        for tick in 0..140 {
            for &(_, guest, fault) in faults.iter().filter(|fault| fault.0 == tick) {
                world.inject(guest, fault, before[guest]);
            }
            world.tick();
            prop_assert_eq!(world.sum(), holding(48, 6));
            for guest in &world.guests {
                let is_above = guest.has.pages >= 4 * 512 && guest.has.cpus >= 1;
                prop_assert!(is_above || guest.is_new, "{guest:?}");
            }
        }
        let Some(ended) = world.transfers.iter().find(|transfer| transfer.id == id).copied() else {
            return Ok(());
        };
        prop_assert!(!ended.phase.is_open(), "{ended:?}");
        // It ends by its deadline, and a stranded one alone may do so later.
        prop_assert!(ended.ended_us.unwrap() <= ended.deadline_us + SECOND / 10 || ended.cause.is_some());
        if ended.phase == Phase::Stranded {
            let hurt = |fault: &(usize, usize, Fault)| matches!(fault.2, Fault::Deaf | Fault::Tires(_) | Fault::Stops | Fault::Resets | Fault::Trouble);
            prop_assert!(faults.iter().any(hurt) || seconds < 12);
        }
        // Whoever listens in the end has what it had, or what was agreed.
        if world.transfers.iter().count() > 1 || faults.iter().any(|fault| fault.2 == Fault::Trouble) {
            return Ok(());
        }
        world.guests.iter_mut().for_each(|guest| guest.breath = u64::MAX);
        world.run(20);
        let done = [holding(32 - pages, 4 - cpus), holding(16 + pages, 2 + cpus)];
        let ended = world.transfers.iter().find(|transfer| transfer.id == id).unwrap().phase;
        for (index, guest) in world.guests.iter().enumerate().filter(|(_, guest)| !guest.is_new && !guest.is_deaf) {
            let goal = if ended == Phase::Done { done[index] } else { before[index] };
            let taker_keeps = world.guests.iter().any(|other| other.is_deaf || other.is_new);
            // Of pages or of cores.
            let lacks = guest.has.pages <= goal.pages && guest.has.cpus <= goal.cpus;
            prop_assert!(guest.has == goal || taker_keeps && index == 0 && lacks,
                "{index} {:?} {goal:?} {ended:?}", guest.has);
        }
    }
}
