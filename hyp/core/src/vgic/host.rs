//! The trait through which the model reaches the physical interrupt controller of the core it runs on.

use super::list_register::ListRegister;

/// The maintenance interrupts wanted besides those of single list registers (`GICH_HCR`,
/// `ICH_HCR_EL2`). Both bits have the same place in the two versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Maintenance {
    /// UIE, bit 1: at most one list register holds a valid interrupt.
    pub underflow: bool,
    /// NPIE, bit 3: no list register is pending.
    pub no_pending: bool,
}

impl Maintenance {
    /// The control register's value with the virtual interface enabled (En, bit 0).
    #[must_use]
    pub const fn to_hcr(self) -> u32 {
        1 | (self.underflow as u32) << 1 | (self.no_pending as u32) << 3
    }
}

/// Set in the number of a linked interrupt that is shared with other guests: the rest of the number is
/// the line's in the shell's table of [shared lines](crate::mediate::line). The physical interrupt
/// is not the guest's to hold active, so it is offered without the HW bit, its end is told, and
/// [`HostGic::deactivate`] then says that this guest has handled it.
pub const SHARED: u16 = 1 << 15;

/// How a physical SPI is triggered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// While the line is high.
    Level,
    /// When the line rises.
    Edge,
}

/// The physical interrupt controller as the core that runs the calling vCPU reaches it: its own
/// list registers, its own PPIs, and the SPIs that are linked to the guest.
///
/// Implemented by the shell. Every call is made with the guest's interrupt-controller lock held, so
/// that two vCPUs' changes of one SPI reach the hardware in the order in which they were decided;
/// none may wait for more than a register access, [`HostGic::set_trigger`] excepted.
pub trait HostGic {
    /// List registers this core has, 1 to 16.
    fn list_registers(&self) -> u32;
    /// Which list registers are free: `GICH_ELRSR0` or `ICH_ELRSR_EL2`.
    fn empty(&self) -> u32;
    /// Which hold an interrupt whose end was asked to be told: `GICH_EISR0` or `ICH_EISR_EL2`.
    fn ended(&self) -> u32;
    /// Reads list register `n`.
    fn read_lr(&self, n: u32) -> ListRegister;
    /// Writes list register `n`.
    fn write_lr(&mut self, n: u32, value: ListRegister);
    /// Chooses the maintenance interrupts.
    fn set_maintenance(&mut self, wanted: Maintenance);

    /// Lets physical interrupt `pintid` (PPIs: of this core) through. For a [`SHARED`] one this and the
    /// following say what concerns this guest alone.
    fn enable(&mut self, pintid: u16);
    /// Holds it back.
    fn disable(&mut self, pintid: u16);
    /// Sets its pending latch. Nothing for a shared one, as the following two and those for routes and triggers.
    fn pend(&mut self, pintid: u16);
    /// Clears its pending latch.
    fn unpend(&mut self, pintid: u16);
    /// Whether it is pending.
    fn is_pending(&self, pintid: u16) -> bool;
    /// Ends its active state, which the guest will not do any more. Shared: the guest has handled it, or
    /// will not; also called when there was nothing to handle.
    fn deactivate(&mut self, pintid: u16);
    /// Routes an SPI to the core that runs `vcpu` of this guest.
    fn route(&mut self, pintid: u16, vcpu: usize);
    /// Sets an SPI's trigger; it has been disabled. May wait until that has taken effect, for some register accesses.
    fn set_trigger(&mut self, pintid: u16, trigger: Trigger);
}
