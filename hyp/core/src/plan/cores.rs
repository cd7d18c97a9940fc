//! Cores of the board for the guests' vCPUs.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use crate::board::Board;
use crate::config::GuestConfig;
use crate::refusal::Refusal;

/// Gives each vCPU that runs at boot a core: those of `cpu-list` first, then the lowest ones nobody listed, then the
/// lowest, in the guests' order. One list a guest. What is left over is free.
pub(super) fn assign(
    board: &Board,
    guests: &[GuestConfig],
    problems: &mut Vec<Refusal>,
) -> Vec<Vec<usize>> {
    let index = |core: &u32| usize::try_from(*core).unwrap_or(usize::MAX);
    let mut holders: Vec<Option<&GuestConfig>> = board.cores.iter().map(|_| None).collect();
    for guest in guests {
        for core in boot_list(guest).map(index) {
            match holders.get_mut(core) {
                Some(Some(holder)) => {
                    let list: Vec<_> = guest.cpus.list.iter().map(ToString::to_string).collect();
                    let refusal = Refusal::new(&guest.node)
                        .property("cpu-list")
                        .value(format!("<{}>", list.join(" ")));
                    let problem = format!("has core {core}, which {} has too", holder.node);
                    problems.push(refusal.problem(problem).fix("give each core to one guest"));
                }
                Some(free) => *free = Some(guest),
                None => {}
            }
        }
    }
    let wanted = guests
        .iter()
        .fold(0_u32, |sum, guest| sum.saturating_add(guest.cpus.boot));
    if usize::try_from(wanted).is_ok_and(|wanted| wanted > board.cores.len()) {
        let each: Vec<_> = guests
            .iter()
            .map(|guest| format!("{} {}", guest.name, guest.cpus.boot))
            .collect();
        let problem = format!(
            "guests ask for {wanted} cores, the board has {} ({})",
            board.cores.len(),
            each.join(", ")
        );
        problems.push(
            Refusal::new("/ballast")
                .property("cpus")
                .problem(problem)
                .fix("lower cpus of some guests"),
        );
    }
    let mut assigned = Vec::with_capacity(guests.len());
    for guest in guests {
        let mut cores: Vec<usize> = boot_list(guest).map(index).collect();
        while u32::try_from(cores.len()).is_ok_and(|count| count < guest.cpus.boot) {
            let is_free = |core: &usize| holders.get(*core).is_some_and(Option::is_none);
            let is_listed = |core: usize| {
                let mut listed = guests.iter().flat_map(|guest| &guest.cpus.list);
                listed.any(|other| index(other) == core)
            };
            let mut free = (0..holders.len()).filter(is_free);
            let lowest = free.clone().next();
            let Some(core) = free.find(|core| !is_listed(*core)).or(lowest) else {
                break;
            };
            if let Some(holder) = holders.get_mut(core) {
                *holder = Some(guest);
            }
            cores.push(core);
        }
        assigned.push(cores);
    }
    assigned
}

/// What the guest lists of the cores it boots with; further ones it would like to be given.
fn boot_list(guest: &GuestConfig) -> impl Iterator<Item = &u32> {
    let boot = usize::try_from(guest.cpus.boot).unwrap_or(usize::MAX);
    guest.cpus.list.iter().take(boot)
}
