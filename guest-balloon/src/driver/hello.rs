//! Registration, and learning what is reserved already.

use ballast_abi::{Order, PAGE_SIZE, Status, UID, VERSION, feature, function};

use super::{Driver, State, orders};
use crate::front::{Clock, Hypercall, PageSource};

/// Answers BUSY in a row before hello gives up.
const BUSY_RETRIES: u32 = 1000;

/// Why a driver cannot work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloError {
    /// The hypervisor is another one.
    NotBallast,
    /// Its interface has this version, of another major number than this driver's.
    Version(u32),
    /// It refused the call with this function identifier.
    Refused(u32, Status),
}

impl Driver {
    /// Registers the driver, learns by QUERY what is not backed (a boot balloon, or what a predecessor
    /// left) and holds it, and fetches the target.
    pub fn hello<F: Hypercall + PageSource + Clock>(
        &mut self,
        front: &mut F,
    ) -> Result<(), HelloError> {
        let uid = front.call(function::UID, 0, 0);
        if uid
            .iter()
            .zip(UID)
            .any(|(&found, expected)| found as u32 != expected)
        {
            return Err(HelloError::NotBallast);
        }
        let [_, version, ..] = success(front, function::VERSION, [0, 0])?;
        if version as u32 >> 16 != VERSION >> 16 {
            return Err(HelloError::Version(version as u32));
        }
        let [_, features, ..] = success(front, function::FEATURES, [0, 0])?;
        self.has_cpu_targets = features & feature::CPUS != 0;
        self.has_run_queue = features & feature::RUN_QUEUE != 0;
        self.reported = None;
        self.granule = front.granule();
        self.least = if features & feature::WHOLE_BLOCKS != 0 {
            Order::Block
        } else {
            self.granule
        };
        // A Ballast that knows no granule takes 0 only.
        let hello = [front.list_ipa(), self.granule as u64];
        let [_, epoch, ..] = success(front, function::HELLO, hello)?;
        self.epoch = epoch;
        self.state = State::Active;
        self.reserved_pages = 0;
        if let Err(error) = self.adopt(front) {
            self.goodbye(front);
            return Err(error);
        }
        front.settle();
        self.on_interrupt(front);
        Ok(())
    }

    /// Walks the guest's RAM by runs. Each call moves on by at least a page, so it ends.
    fn adopt<F: Hypercall + PageSource>(&mut self, front: &mut F) -> Result<(), HelloError> {
        let mut index = 0;
        while let Some((start, pages)) = front.ram(index) {
            let end = start + pages * PAGE_SIZE;
            let mut ipa = start;
            // Where the run that is not backed began: an answer may stop short of the run's end.
            let mut hole = start;
            while ipa < end {
                let [_, backed, run, _] = match success(front, function::QUERY, [ipa, 0]) {
                    // RAM that Ballast does not count as the guest's own (an extra bank): not ours to move.
                    Err(HelloError::Refused(_, Status::InvalidParameters)) => {
                        [0, 1, (end - ipa) / PAGE_SIZE, 0]
                    }
                    answer => answer?,
                };
                let next = ipa + run.clamp(1, (end - ipa) / PAGE_SIZE) * PAGE_SIZE;
                if backed != 0 {
                    self.hold_run(front, hole, ipa);
                    hole = next;
                }
                ipa = next;
            }
            self.hold_run(front, hole, end);
            index += 1;
        }
        Ok(())
    }

    /// Holds the pages from `start` to `end`, in the largest orders that the alignment allows. Of a page of the
    /// guest's own that is missing in part (another kernel gave that) nothing is held: it can never come back whole.
    fn hold_run(&mut self, front: &mut impl PageSource, start: u64, end: u64) {
        self.reserved_pages += (end - start) / PAGE_SIZE;
        let mut ipa = start.next_multiple_of(self.granule.bytes());
        let fits = |ipa: u64, order: Order| {
            ipa + order.bytes() <= end && ipa.is_multiple_of(order.bytes())
        };
        while let Some(&order) = orders(self.granule).iter().find(|&&order| fits(ipa, order)) {
            front.hold(ipa, order);
            ipa += order.bytes();
        }
    }
}

/// Makes a call that has to succeed, again while Ballast is busy.
fn success(
    front: &mut impl Hypercall,
    function: u32,
    [x1, x2]: [u64; 2],
) -> Result<[u64; 4], HelloError> {
    let mut status = Status::Busy;
    for _ in 0..BUSY_RETRIES {
        let answer = front.call(function, x1, x2);
        status = Status::from_register(answer[0]).unwrap_or(Status::NotSupported);
        match status {
            Status::Success => return Ok(answer),
            Status::Busy => {}
            _ => break,
        }
    }
    Err(HelloError::Refused(function, status))
}
