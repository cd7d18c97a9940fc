//! Memory in a primary guest's tree: its RAM, the boot balloons in it, and the balloon's node that names them.
//!
//! Of the board's own reserved regions only those stay that have no address yet. All numbers are in the root's
//! cells, so RAM is told in pieces where a size has one cell.

use alloc::vec::Vec;

use ballast_abi::device_tree::{BOOT_BALLOON_COMPATIBLE, COMPATIBLE};

use super::Copy;
use crate::addr::IpaRange;
use crate::dt::{Node, Writer};
use crate::guest_dt::{LEVEL_HIGH, SPI, spi};
use crate::plan::unbacked_ram;

/// Largest piece of RAM that is described in one: a size of one cell has 32 bits.
const PIECE: u64 = 0x8000_0000;

impl<'n> Copy<'_, 'n> {
    pub(super) fn memory(&self, fdt: &mut Writer<'n>) {
        let pieces = pieces(self.machine.ram);
        let Some(first) = pieces.first() else { return };
        fdt.node_at("memory", first.start.0, |fdt| {
            fdt.text("device_type", "memory");
            fdt.cells("reg", &self.reg(&pieces));
        });
    }

    /// The boot balloons, and regions that the guest is asked to choose itself: those with an address are
    /// firmware's, in memory that is not the guest's.
    pub(super) fn reserved(&self, fdt: &mut Writer<'n>, reserved: Option<Node<'n>>) {
        let own = reserved.iter().flat_map(|node| node.children());
        let own: Vec<_> = own.filter(|node| node.property("reg").is_none()).collect();
        let balloons = self.balloons();
        if own.is_empty() && balloons.is_empty() {
            return;
        }
        fdt.node("reserved-memory", |fdt| {
            fdt.cells("#address-cells", &[self.cells.0]);
            fdt.cells("#size-cells", &[self.cells.1]);
            fdt.flag("ranges");
            for node in own {
                fdt.node(node.name(), |fdt| {
                    for property in node.properties() {
                        fdt.bytes(property.name, property.value);
                    }
                });
            }
            for (range, phandle) in balloons.iter().zip(self.first_balloon()..) {
                // No `no-map`, as in every guest's tree.
                fdt.node_at("boot-balloon", range.start.0, |fdt| {
                    fdt.text("compatible", BOOT_BALLOON_COMPATIBLE);
                    fdt.cells("reg", &self.reg(&[*range]));
                    fdt.cells("phandle", &[phandle]);
                });
            }
        });
    }

    fn first_balloon(&self) -> u32 {
        self.free_phandle.saturating_add(1)
    }

    fn balloons(&self) -> Vec<IpaRange> {
        pieces(&unbacked_ram(self.machine.ram, self.machine.backed_bytes))
    }

    pub(super) fn balloon(&self, fdt: &mut Writer<'n>) {
        let phandles: Vec<u32> = (self.first_balloon()..)
            .take(self.balloons().len())
            .collect();
        let gic = self.gic.and_then(|gic| gic.u32("phandle").ok()?);
        fdt.node("balloon", |fdt| {
            fdt.text("compatible", COMPATIBLE);
            fdt.text("method", "hvc");
            if let Some(gic) = gic {
                fdt.cells("interrupt-parent", &[gic]);
            }
            let number = spi(self.machine.machine.balloon_intid);
            fdt.cells("interrupts", &[SPI, number, LEVEL_HIGH]);
            if !phandles.is_empty() {
                fdt.cells("memory-region", &phandles);
            }
        });
    }
}

/// `ranges` in pieces that a size of one cell can say.
fn pieces(ranges: &[IpaRange]) -> Vec<IpaRange> {
    let mut pieces = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut left = *range;
        while left.size > PIECE {
            pieces.push(IpaRange {
                size: PIECE,
                ..left
            });
            left.start.0 = left.start.0.saturating_add(PIECE);
            left.size = left.size.saturating_sub(PIECE);
        }
        pieces.push(left);
    }
    pieces
}
