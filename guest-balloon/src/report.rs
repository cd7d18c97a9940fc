//! What the guest says of itself, when it is news.

use ballast_abi::{Status, function};

use crate::driver::{Driver, State};
use crate::front::Hypercall;

/// A MiB: memory that changed by less is no news.
const LEAST_PAGES: u64 = 256;
/// The same of pressure, in thousandths, of refaults a second, and of the run queue, in thousandths of a thread.
const LEAST_PRESSURE: u32 = 10;
const LEAST_REFAULTS: u64 = 32;
const LEAST_RUNNABLE: u32 = 250;

/// How the guest fares.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Report {
    /// Free pages.
    pub free_pages: u64,
    /// Pages that could be had without swapping.
    pub available_pages: u64,
    /// Time lost waiting for memory, in thousandths; at most 1000.
    pub pressure: u32,
    /// Pages a second that had been dropped and were needed again.
    pub refaults: u64,
    /// Threads that run or wait to run, in thousandths; 0 if the guest does not say.
    pub runnable_milli: u32,
}

/// Whether a number is worth saying anew.
fn differs(was: u64, is: u64, least: u64) -> bool {
    was.abs_diff(is) > least.max(was.max(is) / 32)
}

impl Report {
    /// What is nearly the same as `last` is not news.
    fn is_news(&self, last: &Self) -> bool {
        let numbers = [
            (last.available_pages, self.available_pages, LEAST_PAGES),
            (
                last.pressure.into(),
                self.pressure.into(),
                LEAST_PRESSURE.into(),
            ),
            (last.refaults, self.refaults, LEAST_REFAULTS),
            (
                last.runnable_milli.into(),
                self.runnable_milli.into(),
                LEAST_RUNNABLE.into(),
            ),
        ];
        numbers
            .into_iter()
            .any(|(was, is, least)| differs(was, is, least))
    }
}

impl Driver {
    /// Tells Ballast how the guest fares, if that is news; whether it was. Looked at when something changes, and with
    /// each interrupt: Ballast asks by it while others lack something. At rest nothing is said.
    pub fn report(&mut self, front: &mut impl Hypercall, mut report: Report) -> bool {
        if self.state != State::Active {
            return false;
        }
        report.pressure = report.pressure.min(1000);
        if !self.has_run_queue {
            report.runnable_milli = 0;
        }
        if self.reported.is_some_and(|last| !report.is_news(&last)) {
            return false;
        }
        let load = u64::from(report.runnable_milli) << 32 | u64::from(report.pressure);
        let arguments = [
            report.free_pages,
            report.available_pages,
            load,
            report.refaults,
        ];
        let [x0, ..] = front.call_with(function::REPORT, arguments);
        let is_taken = Status::from_register(x0) == Some(Status::Success);
        if is_taken {
            self.reported = Some(report);
        }
        is_taken
    }
}
