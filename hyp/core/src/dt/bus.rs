//! What a device's `reg`, `ranges` and `interrupts` mean to the CPU (DT specification 2.3 and 2.4).

use alloc::vec::Vec;

use super::{Node, Property};
use crate::addr::{Pa, PaRange};
use crate::refusal::Refusal;

/// Levels of buses between a device and the root; `MAX_DEPTH` of the check bounds them.
const DEFAULT_ADDRESS_CELLS: u32 = 2;
const DEFAULT_SIZE_CELLS: u32 = 1;

/// A range of addresses on a bus, before translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusRange {
    /// First address.
    pub start: u64,
    /// Length in bytes; 0 where the bus has no sizes.
    pub size: u64,
}

/// Which of the GIC's ranges an interrupt is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptKind {
    /// Shared peripheral interrupt: number 0 is INTID 32.
    Spi,
    /// Private peripheral interrupt: number 0 is INTID 16.
    Ppi,
}

/// An interrupt as the GIC's binding writes it: three cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// SPI or PPI.
    pub kind: InterruptKind,
    /// The GIC's identifier: 16..=31 for a PPI, 32..=1019 for an SPI.
    pub intid: u32,
    /// Level-sensitive (flags 4 or 8) or edge-triggered (1 or 2).
    pub level: bool,
}

/// Cells of a bus's children: address, size.
#[derive(Clone, Copy)]
struct Cells {
    address: u32,
    size: u32,
}

impl Cells {
    fn of(bus: Node<'_>) -> Result<Self, Refusal> {
        let address = bus.u32("#address-cells")?.unwrap_or(DEFAULT_ADDRESS_CELLS);
        let size = bus.u32("#size-cells")?.unwrap_or(DEFAULT_SIZE_CELLS);
        Ok(Self { address, size })
    }
}

/// Takes a number of `width` cells (0 to 2) off `cells`.
fn take(cells: &mut impl Iterator<Item = u32>, width: u32) -> Option<u64> {
    let mut value = 0;
    for _ in 0..width {
        value = (value << 32) | u64::from(cells.next()?);
    }
    Some(value)
}

impl<'t> Node<'t> {
    /// `reg` as the parent bus writes it; empty if there is none.
    ///
    /// # Errors
    /// The bus has addresses of more than two cells, or the length does not fit.
    pub fn reg(self) -> Result<Vec<BusRange>, Refusal> {
        let Some(property) = self.property("reg") else {
            return Ok(Vec::new());
        };
        let Some(parent) = self.parent() else {
            return Ok(Vec::new());
        };
        let cells = Cells::of(parent)?;
        if !(1..=2).contains(&cells.address) || cells.size > 2 {
            let problem = "is on a bus whose addresses or sizes are not of one or two cells";
            return Err(property
                .refuse()
                .problem(problem)
                .fix("name a device directly on the memory bus"));
        }
        let stride = cells.address.saturating_add(cells.size);
        let mut values = property.cells()?;
        if u32::try_from(values.len())
            .ok()
            .and_then(|count| count.checked_rem(stride))
            != Some(0)
        {
            return Err(property
                .refuse()
                .problem("does not fit #address-cells and #size-cells of its bus"));
        }
        let mut ranges = Vec::new();
        while let (Some(start), Some(size)) = (
            take(&mut values, cells.address),
            take(&mut values, cells.size),
        ) {
            ranges.push(BusRange { start, size });
            if values.len() == 0 {
                break;
            }
        }
        Ok(ranges)
    }

    /// `reg` in CPU addresses, through every `ranges` up to the root.
    ///
    /// # Errors
    /// As [`Node::reg`], and a bus on the way that does not map the range.
    pub fn regions(self) -> Result<Vec<PaRange>, Refusal> {
        let mut regions = Vec::new();
        for range in self.reg()? {
            let bus = self.parent().unwrap_or(self);
            let start = bus
                .to_cpu(range.start, range.size)
                .map_err(|error| error.unwrap_or_else(|| self.unmapped()))?;
            if start.checked_add(range.size).is_none() {
                return Err(self.unmapped());
            }
            regions.push(PaRange {
                start: Pa(start),
                size: range.size,
            });
        }
        Ok(regions)
    }

    /// What of the CPU's addresses this bus passes on to its children (`ranges`), through every bus above.
    /// Its own addresses may have any number of cells, as PCI's three.
    ///
    /// # Errors
    /// `ranges` does not fit, or a bus on the way does not map it.
    pub fn windows(self) -> Result<Vec<PaRange>, Refusal> {
        let (Some(ranges), Some(parent)) = (self.property("ranges"), self.parent()) else {
            return Ok(Vec::new());
        };
        let (own, above) = (Cells::of(self)?, Cells::of(parent)?);
        let mut cells = ranges.cells()?;
        let mut windows = Vec::new();
        while cells.len() != 0 {
            for _ in 0..own.address {
                cells.next();
            }
            let (Some(start), Some(size)) =
                (take(&mut cells, above.address), take(&mut cells, own.size))
            else {
                break;
            };
            let start = parent.to_cpu(start, size);
            let start = start.map_err(|error| error.unwrap_or_else(|| self.unmapped()))?;
            windows.push(PaRange {
                start: Pa(start),
                size,
            });
            if size == 0 {
                break;
            }
        }
        Ok(windows)
    }

    /// An address on this bus as the CPU sees it.
    fn to_cpu(self, mut address: u64, size: u64) -> Result<u64, Option<Refusal>> {
        let mut bus = Some(self);
        while let Some(node) = bus.filter(|node| node.parent().is_some()) {
            address = node.translate(address, size)?;
            bus = node.parent();
        }
        Ok(address)
    }

    fn unmapped(self) -> Refusal {
        let problem = "is not in the CPU's address space";
        match self.property("reg") {
            Some(property) => property.refuse().problem(problem),
            None => self.refuse().problem(problem),
        }
    }

    /// An address of this bus as its parent sees it. `Err(None)`: not mapped.
    fn translate(self, address: u64, size: u64) -> Result<u64, Option<Refusal>> {
        let ranges = self.property("ranges").ok_or(None)?;
        if ranges.value.is_empty() {
            return Ok(address);
        }
        let child = Cells::of(self)?;
        let parent = self.parent().map(Cells::of).transpose()?.ok_or(None)?;
        if child.address > 2 || parent.address > 2 || child.size > 2 {
            return Err(None);
        }
        let mut cells = ranges.cells()?;
        while cells.len() != 0 {
            let from = take(&mut cells, child.address).ok_or(None)?;
            let to = take(&mut cells, parent.address).ok_or(None)?;
            let length = take(&mut cells, child.size).ok_or(None)?;
            if let Some(offset) = address.checked_sub(from)
                && offset.checked_add(size).is_some_and(|end| end <= length)
            {
                return to.checked_add(offset).ok_or(None);
            }
            // A width of nothing would take nothing.
            if child.address == 0 && parent.address == 0 && child.size == 0 {
                break;
            }
        }
        Err(None)
    }

    /// The controller this node's interrupts go to: its own or an ancestor's `interrupt-parent`.
    ///
    /// # Errors
    /// The phandle is malformed or leads nowhere.
    pub fn interrupt_parent(self) -> Result<Node<'t>, Refusal> {
        let mut holder = Some(self);
        while let Some(node) = holder {
            if let Some(property) = node.property("interrupt-parent") {
                let target = self.tree().by_phandle(property.as_u32()?);
                return target.ok_or_else(|| property.refuse().problem("is no node's phandle"));
            }
            holder = node.parent();
        }
        Err(self
            .refuse()
            .problem("has no interrupt controller")
            .fix("give it an interrupt-parent"))
    }

    /// `interrupts` (or `interrupts-extended`) of a device wired to `gic`; empty if it has none.
    ///
    /// # Errors
    /// They go to another controller, or are not three cells of the GIC's binding.
    pub fn interrupts(self, gic: Node<'_>) -> Result<Vec<Interrupt>, Refusal> {
        let not_gic = |property: Property<'t>| {
            property
                .refuse()
                .problem("goes to another interrupt controller than the GIC")
                .fix("name another device")
        };
        let extended = self.property("interrupts-extended");
        let Some(property) = extended.or_else(|| self.property("interrupts")) else {
            return Ok(Vec::new());
        };
        if extended.is_none() && self.interrupt_parent()? != gic {
            return Err(not_gic(property));
        }
        let short = || {
            property
                .refuse()
                .problem("is not made of the GIC's three cells an interrupt")
        };
        let mut cells = property.cells()?;
        let mut interrupts = Vec::new();
        while cells.len() != 0 {
            if extended.is_some() {
                let phandle = cells.next().ok_or_else(short)?;
                if self.tree().by_phandle(phandle) != Some(gic) {
                    return Err(not_gic(property));
                }
            }
            let (Some(kind), Some(number), Some(flags)) =
                (cells.next(), cells.next(), cells.next())
            else {
                return Err(short());
            };
            interrupts.push(
                interrupt(kind, number, flags)
                    .ok_or_else(|| property.refuse().problem("names no SPI or PPI"))?,
            );
        }
        Ok(interrupts)
    }
}

impl<'t> Node<'t> {
    /// Interrupts of this bus's children that its `interrupt-map` passes on to `gic` (DT specification
    /// 2.4.3), as far as the map is well-formed.
    #[must_use]
    pub fn mapped_interrupts(self, gic: Node<'_>) -> Vec<Interrupt> {
        let mut interrupts = Vec::new();
        let width = |node: Node<'_>, name| node.u32(name).ok().flatten().unwrap_or(0);
        let Some(mut cells) = self
            .property("interrupt-map")
            .and_then(|map| map.cells().ok())
        else {
            return interrupts;
        };
        let own = width(self, "#address-cells").saturating_add(width(self, "#interrupt-cells"));
        while cells.len() != 0 {
            let child = (0..own).try_for_each(|_| cells.next().map(drop));
            let Some(parent) = child
                .and_then(|()| cells.next())
                .and_then(|phandle| self.tree().by_phandle(phandle))
            else {
                break;
            };
            let address = width(parent, "#address-cells");
            let specifier = width(parent, "#interrupt-cells");
            let skipped = (0..address).try_for_each(|_| cells.next().map(drop));
            let mut words = [0; 3];
            let taken = skipped.and_then(|()| {
                (0..specifier).try_for_each(|index| {
                    let word = cells.next()?;
                    let slot = usize::try_from(index)
                        .ok()
                        .and_then(|index| words.get_mut(index));
                    if let Some(slot) = slot {
                        *slot = word;
                    }
                    Some(())
                })
            });
            if taken.is_none() {
                break;
            }
            let [kind, number, flags] = words;
            if parent == gic && specifier == 3 {
                interrupts.extend(interrupt(kind, number, flags));
            }
        }
        interrupts
    }
}

/// The GIC binding's three cells.
fn interrupt(kind: u32, number: u32, flags: u32) -> Option<Interrupt> {
    let (kind, base, limit) = match kind {
        0 => (InterruptKind::Spi, 32, 988),
        1 => (InterruptKind::Ppi, 16, 16),
        _ => return None,
    };
    // Flags: 1 and 2 are edges, 4 and 8 levels; a PPI's bits 15:8 are its CPUs (GICv2).
    let level = flags & 0xc != 0;
    (number < limit).then(|| Interrupt {
        kind,
        intid: number.saturating_add(base),
        level,
    })
}
