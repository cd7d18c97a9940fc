#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use proptest::prelude::*;

const fn guest<'a>(
    boot: &'a [usize],
    wanted: &'a [usize],
    min: u8,
    max: u8,
    is_fixed: bool,
) -> Entitlement<'a> {
    Entitlement {
        boot,
        wanted,
        min,
        max,
        is_fixed,
    }
}

fn set(cores: &Cores, guest: usize, cpus: u32) -> Vec<Move> {
    let moves = cores.set_target(guest, cpus, |_| {}).unwrap();
    moves.iter().copied().collect()
}

const fn taken(guest: usize, core: usize, left: u8) -> Move {
    Move::Taken { guest, core, left }
}

const fn granted(guest: usize, core: usize, has: u8) -> Move {
    Move::Granted { guest, core, has }
}

#[test]
fn cores_are_taken_once_each() {
    let cores = FreeCores::new(0b1010);
    assert_eq!(cores.take(3), Some(3));
    assert_eq!(cores.take(3), Some(1));
    assert_eq!(cores.take(100), None);
    cores.put(100);
    cores.put(7);
    assert_eq!((cores.mask(), cores.take(0)), (0x80, Some(7)));
}

#[test]
fn a_core_that_is_given_up_goes_to_who_waits() {
    let cores = Cores::new(
        3,
        &[
            guest(&[0, 1], &[], 1, 2, false),
            guest(&[2], &[], 1, 2, false),
        ],
    );
    assert_eq!((cores.take(0, 0), cores.take(0, 1)), (Some(0), Some(1)));
    assert_eq!(cores.take(1, 0), Some(2));
    assert_eq!(cores.take(1, 1), None, "denied");
    assert_eq!(set(&cores, 1, 2), [], "none is free");
    assert_eq!(set(&cores, 0, 1), [], "both of them run");
    assert_eq!(cores.take(1, 1), None, "still denied");
    assert_eq!(cores.put_back(0, 1), [taken(0, 1, 1), granted(1, 1, 2)]);
    assert_eq!(cores.take(0, 1), None, "it was this guest's");
    assert_eq!(cores.take(1, 1), Some(1));
    assert_eq!((cores.holder(1), cores.granted(0)), (Some(1), CpuSet(1)));
    assert_eq!(cores.put_back(0, 0), [], "the last one stays");
    assert_eq!(cores.take(0, 0), Some(0));
}

#[test]
fn what_runs_nothing_moves_at_once() {
    let cores = Cores::new(
        4,
        &[
            guest(&[0, 1, 2], &[], 1, 3, false),
            guest(&[3], &[], 1, 4, false),
        ],
    );
    assert_eq!(cores.take(0, 0), Some(0));
    assert_eq!(set(&cores, 0, 1), [taken(0, 1, 2), taken(0, 2, 1)]);
    assert_eq!((cores.holder(1), cores.holder(2)), (None, None));
    assert_eq!(set(&cores, 1, 4), [granted(1, 1, 2), granted(1, 2, 3)]);
    assert_eq!(cores.target(1), 4);
    // The target rises again: who waits comes first, and has to give it up by itself.
    assert_eq!(set(&cores, 0, 2), []);
    assert_eq!(set(&cores, 1, 2), [taken(1, 1, 2), granted(0, 1, 2)]);
}

#[test]
fn preferences() {
    let all = [
        guest(&[3], &[3, 2], 1, 4, false),
        guest(&[0], &[], 1, 4, false),
        guest(&[1], &[1], 1, 1, true),
    ];
    let cores = Cores::new(6, &all);
    assert_eq!(set(&cores, 1, 2), [granted(1, 4, 2)], "2 is wanted");
    assert_eq!(set(&cores, 0, 2), [granted(0, 2, 2)]);
    assert_eq!(set(&cores, 0, 3), [granted(0, 5, 3)]);
    assert_eq!(cores.take(0, 1), Some(2), "cpu-list's order");
    assert_eq!(cores.take(0, 0), Some(3));
    assert_eq!(cores.take(0, 2), Some(5));
    cores.put_back(0, 2);
    cores.put_back(0, 5);
    assert_eq!(set(&cores, 0, 2), [taken(0, 5, 2)], "2 is wanted");
}

#[test]
fn refusals() {
    let all = [
        guest(&[0, 1], &[], 2, 3, false),
        guest(&[2], &[], 1, 1, true),
        guest(&[3], &[], 0, 8, false),
    ];
    let cores = Cores::new(4, &all);
    let set = |guest, cpus| cores.set_target(guest, cpus, |_| panic!("told"));
    assert_eq!(set(0, 1), Err(Refused::BelowMinimum(2)));
    assert_eq!(set(0, 4), Err(Refused::AboveMaximum(3)));
    assert_eq!(set(0, u32::MAX), Err(Refused::AboveMaximum(3)));
    assert_eq!(set(1, 1), Err(Refused::Fixed));
    assert_eq!(set(2, 0), Err(Refused::BelowMinimum(1)), "never the last");
    assert_eq!(set(9, 1), Err(Refused::Fixed));
    assert_eq!(cores.target(0), 2);
    assert_eq!(cores.granted(0).to_string(), "0,1");
    assert_eq!(cores.granted(7).to_string(), "-");
}

/// A guest as the model sees it: the cores its vCPUs run on.
#[derive(Clone, Default)]
struct Running(Vec<usize>);

fn check(
    cores: &Cores,
    guests: &[Entitlement<'_>],
    running: &[Running],
) -> Result<(), TestCaseError> {
    let mut seen = CpuSet(0);
    for (index, guest) in guests.iter().enumerate() {
        let (has, target) = (cores.granted(index), cores.target(index) as usize);
        prop_assert_eq!(seen.0 & has.0, 0, "one owner");
        seen.0 |= has.0;
        let mut accounted = cores.unused(index).0;
        for core in &running[index].0 {
            prop_assert_eq!(accounted & bit(*core), 0, "runs or does not");
            accounted |= bit(*core);
        }
        prop_assert_eq!(accounted, has.0, "nothing lost");
        let (least, most) = (usize::from(guest.min.max(1)), usize::from(guest.max));
        prop_assert!((least..=most).contains(&has.len()) && (least..=most).contains(&target));
        if guest.is_fixed {
            prop_assert_eq!(has.iter().collect::<Vec<_>>(), guest.boot);
        }
        if has.len() > target {
            prop_assert!(cores.unused(index).is_empty(), "it would have been taken");
        }
        if has.len() < target {
            prop_assert!(seen.len() <= 6);
        }
    }
    let free = 6 - seen.len();
    let waits = (0..guests.len()).any(|guest| {
        let share = cores.granted(guest).len();
        share < cores.target(guest) as usize
    });
    prop_assert!(free == 0 || !waits, "a free core and a guest that waits");
    Ok(())
}

const GUESTS: [Entitlement<'static>; 4] = [
    guest(&[0, 1], &[], 1, 4, false),
    guest(&[2], &[2, 3], 1, 6, false),
    guest(&[4], &[4], 1, 1, true),
    guest(&[5], &[], 1, 2, false),
];

proptest! {
    /// Every core has one owner at every step, none is lost, minimums and maximums hold, and what is reported
    /// is what changed.
    #[test]
    fn cores_are_conserved(steps in prop::collection::vec((0..3_u8, 0..4_usize, 0..8_u32), 0..200)) {
        let cores = Cores::new(6, &GUESTS);
        let mut running = vec![Running::default(); GUESTS.len()];
        for (what, guest, n) in steps {
            let before: Vec<_> = (0..GUESTS.len()).map(|guest| cores.granted(guest)).collect();
            let moves = match what {
                0 => {
                    if let Some(core) = cores.take(guest, n as usize) {
                        prop_assert!(before[guest].contains(core));
                        running[guest].0.push(core);
                    }
                    Moves::new()
                }
                1 if !running[guest].0.is_empty() => {
                    let at = n as usize % running[guest].0.len();
                    let core = running[guest].0.swap_remove(at);
                    cores.put_back(guest, core)
                }
                2 => cores.set_target(guest, n, |_| {}).unwrap_or_default(),
                _ => Moves::new(),
            };
            let mut after = before;
            for step in moves {
                match step {
                    Move::Taken { guest, core, left } => {
                        prop_assert!(after[guest].contains(core));
                        after[guest].0 &= !bit(core);
                        prop_assert_eq!(after[guest].len(), usize::from(left));
                    }
                    Move::Granted { guest, core, has } => {
                        prop_assert!(after.iter().all(|set| !set.contains(core)));
                        after[guest].0 |= bit(core);
                        prop_assert_eq!(after[guest].len(), usize::from(has));
                    }
                }
            }
            let now: Vec<_> = (0..GUESTS.len()).map(|guest| cores.granted(guest)).collect();
            prop_assert_eq!(after, now);
            check(&cores, &GUESTS, &running)?;
        }
    }
}

/// Guests that turn CPUs on and off while targets change: whoever has a core has it alone, and in the end everything
/// is where it belongs.
#[test]
fn races_with_take_back_lose_no_core() {
    use std::sync::atomic::AtomicU8;
    let cores = Cores::new(6, &GUESTS);
    let in_use = AtomicU8::new(0);
    let rounds = if cfg!(miri) { 20 } else { 20_000_usize };
    std::thread::scope(|scope| {
        for guest in [0, 0, 1, 3] {
            let (cores, in_use) = (&cores, &in_use);
            scope.spawn(move || {
                for round in 0..rounds {
                    let Some(core) = cores.take(guest, round & 3) else {
                        continue;
                    };
                    assert_eq!(in_use.fetch_or(bit(core), Ordering::SeqCst) & bit(core), 0);
                    assert!(cores.granted(guest).contains(core));
                    in_use.fetch_and(!bit(core), Ordering::SeqCst);
                    cores.put_back(guest, core);
                }
            });
        }
        let cores = &cores;
        scope.spawn(move || {
            for round in 0..rounds {
                let cpus = (round / 3 % 4) as u32 + 1;
                let _ = cores.set_target([0, 1, 3][round % 3], cpus, |_| {});
            }
        });
    });
    check(&cores, &GUESTS, &vec![Running::default(); 4]).unwrap();
}

#[test]
fn a_core_on_its_way_is_nobody_elses() {
    let cores = Cores::new(
        4,
        &[
            guest(&[0, 1], &[], 1, 4, false),
            guest(&[2], &[], 1, 4, false),
            guest(&[3], &[], 1, 4, false),
        ],
    );
    assert_eq!(set(&cores, 2, 2), [], "none is free");
    let kept = |holder| Kept {
        giver: 0,
        giver_had: 2,
        taker: 1,
        taker_had: 1,
        most: 1,
        holder,
    };
    assert!(cores.keep([kept(0)]).is_empty());
    assert_eq!(
        set(&cores, 0, 1),
        [taken(0, 0, 1)],
        "and who waits gets nothing"
    );
    assert_eq!(set(&cores, 1, 2), [], "nor does the other before its time");
    assert_eq!(cores.keep([kept(1)])[..], [granted(1, 0, 2)]);
    assert_eq!(set(&cores, 1, 1), [taken(1, 0, 1)]);
    assert_eq!(set(&cores, 0, 2), []);
    assert_eq!(
        cores.keep([kept(0)])[..],
        [granted(0, 0, 2)],
        "it goes back"
    );
    assert_eq!(set(&cores, 0, 1), [taken(0, 0, 1)]);
    assert_eq!(
        cores.keep([])[..],
        [granted(2, 0, 2)],
        "and now to who waits"
    );
}
