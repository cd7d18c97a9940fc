//! The host's check: the boot's own code over files.

use alloc::string::String;
use alloc::vec::Vec;

use super::{BootPlan, admit, memory};
use crate::addr::PaRange;
use crate::archive::Archive;
use crate::board::Board;
use crate::config::{GuestConfig, OnReset, Partitions};
use crate::dt::DeviceTree;
use crate::refusal::Refusal;

/// What the host's check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Mistakes: Ballast would not start.
    pub refusals: Vec<Refusal>,
    /// What it would start with but was hardly meant.
    pub warnings: Vec<Refusal>,
    /// What is trapped or shared, and what that costs.
    pub notes: Vec<String>,
    /// What would be started, if nothing is refused and an archive was given.
    pub plan: Option<BootPlan>,
}

/// Checks a board's device tree with the partitions merged in as the boot would, and the boot
/// archive if it is given. `held` as for [`BootPlan::new`].
#[must_use]
pub fn check(dtb: &[u8], archive: Option<&[u8]>, held: &[PaRange]) -> Report {
    let mut report = Report::default();
    match check_into(dtb, archive, held, &mut report) {
        Ok(plan) => report.plan = plan,
        Err(mut refusals) => report.refusals.append(&mut refusals),
    }
    report
}

fn check_into(
    dtb: &[u8],
    archive: Option<&[u8]>,
    held: &[PaRange],
    report: &mut Report,
) -> Result<Option<BootPlan>, Vec<Refusal>> {
    let one = |refusal| alloc::vec![refusal];
    let tree = DeviceTree::new(dtb).map_err(|error| one(error.into()))?;
    let board = Board::from_dt(&tree).map_err(one)?;
    let partitions = Partitions::parse(&tree, &board)?;
    report.notes = crate::config::notes(&partitions.guests, &board);
    let trusted = partitions.guests.iter().filter_map(GuestConfig::trust);
    report.notes.extend(trusted);
    report.warnings = crate::config::neighbours(&partitions.guests, &tree);
    report.warnings.extend(unstoppable(&partitions.guests));
    report.warnings.extend(memory::warnings(
        &board,
        &partitions.guests,
        &memory::free(&board, held),
    ));
    match archive {
        Some(bytes) => {
            let archive = Archive::new(bytes).map_err(|error| one(error.into()))?;
            BootPlan::new(&board, &tree, partitions, &archive, held).map(Some)
        }
        None => {
            let refusals = admit(&board, &partitions, held).problems;
            if refusals.is_empty() {
                Ok(None)
            } else {
                Err(refusals)
            }
        }
    }
}

/// Guests that are started once and then not again before the board is reset.
fn unstoppable(guests: &[GuestConfig]) -> impl Iterator<Item = Refusal> {
    let alone = guests
        .iter()
        .filter(|guest| guest.on_reset == OnReset::Guest);
    alone.filter_map(|guest| {
        let device = guest.unstoppable()?;
        let problem = alloc::format!(
            "resets the guest, which then stays stopped: nobody knows how to make {} stop writing to memory",
            device.path
        );
        let refusal = Refusal::new(&guest.node).property("on-reset").value("\"guest\"");
        let fix = alloc::format!(
            "write on-reset = \"board\" if its reset may be everybody's, or {} if it can do without it",
            if guest.primary {
                alloc::format!("withhold = \"{}\"", device.path)
            } else {
                "remove it".into()
            }
        );
        Some(refusal.problem(problem).fix(fix))
    })
}
