//! How free memory is made ready for its next owner.

use alloc::format;
use alloc::vec::Vec;

use super::reader::Reader;
use crate::dt::Node;
use crate::refusal::Refusal;

/// Fastest limit, in MiB a second: beyond any DRAM of the boards there are.
const MAX_MIB_S: u32 = 65_536;

/// What `/ballast` says of scrubbing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubConfig {
    /// Zero memory before its first owner gets it, too (`scrub-at-boot`).
    pub at_boot: bool,
    /// Idle cores scrub no more than this together, in MiB a second (`scrub-mib-s`); `None` for no limit.
    pub mib_s: Option<u32>,
}

pub(super) fn read(root: Node<'_>, problems: &mut Vec<Refusal>) -> ScrubConfig {
    let mut reader = Reader {
        node: root,
        problems,
    };
    let at_boot = reader.flag("scrub-at-boot");
    let mib_s = reader.number("scrub-mib-s");
    if let (Some(mib_s), Some(property)) = (mib_s, root.property("scrub-mib-s"))
        && !(1..=MAX_MIB_S).contains(&mib_s)
    {
        reader.refuse(
            property,
            "is no bandwidth in MiB a second",
            format!("choose one from 1 to {MAX_MIB_S}, or leave it out for no limit"),
        );
    }
    ScrubConfig { at_boot, mib_s }
}
