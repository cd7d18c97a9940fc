//! Interrupts with several holders: [`ballast_core::mediate::line`] on the physical controller.

use alloc::vec::Vec;

use ballast_core::mediate::line::{LIMIT_US, Line, Report, Steps};
use spin::mutex::TicketMutex;

use super::Gic;
use crate::aarch64::timer;

/// One of them.
pub struct SharedSpi {
    /// The physical interrupt, and every holder's virtual one.
    pub intid: u32,
    /// Ballast's console is on it.
    pub is_own: bool,
    /// Innermost of all locks: taken with a guest's `vgic` held.
    state: TicketMutex<Line>,
}

impl Gic {
    /// Makes lines of these physical SPIs, in this order; `own` is Ballast's. Once, before guests start.
    pub fn share(&self, intids: &[u32], own: Option<u32>, frequency: u64) {
        self.lines.call_once(|| {
            let lines = intids.iter().map(|intid| {
                let is_own = own == Some(*intid);
                self.set_edge(*intid, false);
                SharedSpi {
                    intid: *intid,
                    is_own,
                    state: TicketMutex::new(Line::new(frequency * LIMIT_US / 1_000_000, is_own)),
                }
            });
            lines.collect::<Vec<_>>().into_boxed_slice()
        });
    }

    /// Has the lines served on core `core`, whose interface is up.
    pub fn route_lines(&self, core: usize) {
        for line in self.lines() {
            self.route(line.intid, core);
        }
    }

    /// The lines, by number.
    pub fn lines(&self) -> &[SharedSpi] {
        self.lines.get().map_or(&[], |lines| lines)
    }

    /// The line of physical SPI `intid`.
    pub fn line_of(&self, intid: u32) -> Option<&SharedSpi> {
        self.lines().iter().find(|line| line.intid == intid)
    }

    /// Makes a step with `line`: what it says of the physical interrupt is done before anybody else's step,
    /// and this core's timer is armed if it has to be.
    pub fn step(&self, line: &SharedSpi, step: impl FnOnce(&mut Line) -> Steps) -> Steps {
        let mut state = line.state.lock();
        let steps = step(&mut state);
        match steps.physical {
            Some(true) => self.enable(0, line.intid),
            Some(false) => self.disable(0, line.intid),
            None => {}
        }
        drop(state);
        if let Some(at) = steps.tick_at {
            timer::arm(at);
        }
        steps
    }

    /// The core's timer has fired and is off: what waits for its deadline goes on, or arms it again. What is to be
    /// said goes to `report`.
    pub fn tick_lines(&self, now: u64, report: impl Fn(&SharedSpi, Report)) {
        for line in self.lines() {
            let steps = self.step(line, |state| state.tick(now));
            if let Some(news) = steps.report {
                report(line, news);
            }
        }
    }
}
