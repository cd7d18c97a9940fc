//! What a guest is trusted with, and what its reset acts on.

use super::reader::Reader;
use super::{GuestConfig, OnReset};
use crate::board::Board;
use crate::speculation;

/// Whether `name` (`dma` or `board`) is there: its only value is "trusted".
pub(super) fn is_trusted(reader: &mut Reader<'_, '_>, name: &str) -> bool {
    let Some(property) = reader.node.property(name) else {
        return false;
    };
    if property.value != b"trusted\0" {
        let fix = alloc::format!("write {name} = \"trusted\", or leave it out");
        reader.refuse(property, "is not \"trusted\"", fix);
    }
    true
}

/// `on-reset`.
pub(super) fn read_on_reset(reader: &mut Reader<'_, '_>) -> OnReset {
    let Some(property) = reader.node.property("on-reset") else {
        return OnReset::default();
    };
    match property.value {
        b"guest\0" => OnReset::Guest,
        b"board\0" => OnReset::Board,
        _ => {
            let fix = "write on-reset = \"guest\" or \"board\"";
            reader.refuse(property, "is neither \"guest\" nor \"board\"", fix);
            OnReset::default()
        }
    }
}

/// Banks lie at addresses that the configuration chooses, so no device could reach them; and nobody is promised a
/// sequence that is not known.
pub(super) fn check(reader: &mut Reader<'_, '_>, guest: &GuestConfig, board: &Board) {
    if guest.is_identity()
        && let Some(property) = reader.node.property("extra-ram")
    {
        let problem = "is not to be had by a guest whose RAM lies where the board has it";
        reader.refuse(property, problem, "remove it");
    }
    if guest.harden
        && let Some(property) = reader.node.property("harden")
        && let Some(core) = speculation::unknown_core(board)
    {
        let problem = alloc::format!("knows nothing to do on this board's {core}");
        reader.refuse(
            property,
            problem,
            "remove it; docs/errata.md says what is known",
        );
    }
}
