//! Pages of device registers that have several holders, as EL2 reaches them for guests.
//!
//! What an access does is decided by [`ballast_core::mediate`]; here it is done, on EL2's own
//! Device-nGnRnE mapping of the page, which the device may answer with an external abort.

use core::ptr::NonNull;

use alloc::boxed::Box;
use alloc::vec::Vec;
use ballast_core::addr::{PAGE_SIZE, Pa};
use ballast_core::exit::Width;
use ballast_core::mediate::{ENABLES, Effect};
use spin::mutex::TicketMutex;

use super::guarded::{DeviceFault, Guarded};
use crate::aarch64::mmu;

/// One page.
pub struct SharedPage {
    registers: Guarded,
    /// Held while a register is read, changed and written.
    merging: TicketMutex<()>,
}

impl SharedPage {
    /// Does what `effect` says, with an access of `width`; a load's value, else 0. Effects that concern no
    /// register of the page do nothing.
    pub fn carry_out(&self, effect: Effect, width: Width) -> Result<u32, DeviceFault> {
        match effect {
            Effect::Read { offset, mask } => Ok(self.registers.load(offset.into(), width)? & mask),
            Effect::Write { offset, value } => self
                .registers
                .store(offset.into(), width, value)
                .map(|()| 0),
            Effect::Merge {
                offset,
                mask,
                value,
            } => {
                let _held = self.merging.lock();
                let (offset, word) = (offset.into(), Width::Word);
                let old = self.registers.load(offset, word)?;
                self.registers
                    .store(offset, word, old & !mask | value & mask)?;
                Ok(0)
            }
            Effect::Nothing | Effect::Console { .. } | Effect::Abort => Ok(0),
        }
    }
}

/// Every page that is mapped for guests, each once.
#[derive(Default)]
pub struct SharedPages(Vec<(Pa, &'static SharedPage)>);

impl SharedPages {
    /// The page at `pa`, mapped at its first use. At boot only.
    pub fn at(&mut self, pa: Pa) -> &'static SharedPage {
        if let Some((_, page)) = self.0.iter().find(|(at, _)| *at == pa) {
            return page;
        }
        let base = NonNull::new(mmu::map_answered(pa, PAGE_SIZE)).unwrap_or(NonNull::dangling());
        // SAFETY: just mapped, for ever; what is stored there the core has found to be its holder's affair.
        let registers = unsafe { Guarded::new(base, PAGE_SIZE as u32) };
        let page = &*Box::leak(Box::new(SharedPage {
            registers,
            merging: TicketMutex::new(()),
        }));
        self.0.push((pa, page));
        page
    }

    /// Turns blocks of the BCM2711's AUX on for a guest that has them and not the switch.
    pub fn enable_aux(&mut self, switch: Pa, blocks: u8) {
        let offset = (switch.0 & (PAGE_SIZE - 1)) as u16 + ENABLES;
        let page = self.at(switch.align_down(PAGE_SIZE));
        // A board whose AUX does not answer has none to turn on.
        let _ = page.carry_out(
            Effect::Merge {
                offset,
                mask: u32::from(blocks),
                value: u32::from(blocks),
            },
            Width::Word,
        );
    }
}
