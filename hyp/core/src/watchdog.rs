//! The watchdog a guest sees, in one of two forms: Arm's generic watchdog, or the one of a Raspberry Pi's power
//! management block where the guest has the board's own tree.
//!
//! It resets the guest and never the board: what its end means is `on-reset`. The shell keeps one deadline for
//! each guest in EL2's own timer, and only while the guest has it armed; all else is computed when the guest
//! asks. Times are ticks of the generic counter.

use crate::exit::Width;
use crate::smccc::low_word;

/// Which watchdog it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Arm's generic watchdog (BSA, DEN0094, "Generic watchdog"; `arm,sbsa-gwdt`): a page of control registers,
    /// then one to refresh it. After one offset without a refresh its first signal is up, which has no interrupt
    /// here, after a second one its end has come.
    Generic,
    /// PM_RSTC, PM_RSTS and PM_WDOG of a BCM2835 to BCM2711 (`brcm,bcm2835-pm-wdt`; not in the public documents:
    /// what Linux's driver knows). Nothing else is in its page.
    Pm,
}

impl Kind {
    /// Bytes of its registers: whole pages.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Generic => 0x2000,
            Self::Pm => 0x1000,
        }
    }
}

/// What a watchdog's end asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expired {
    /// A reset.
    Reset,
    /// A power-off.
    PowerOff,
}

/// One guest's watchdog.
#[derive(Clone, Debug)]
pub enum Watchdog {
    /// Arm's.
    Generic(Generic),
    /// The Pi's.
    Pm(Pm),
}

impl Watchdog {
    /// One that is not armed, with a counter of `frequency` Hz.
    #[must_use]
    pub fn new(kind: Kind, frequency: u64) -> Self {
        match kind {
            Kind::Generic => Self::Generic(Generic::default()),
            Kind::Pm => Self::Pm(Pm::new(frequency)),
        }
    }

    /// As after power-on.
    pub fn reset(&mut self) {
        match self {
            Self::Generic(generic) => *generic = Generic::default(),
            Self::Pm(pm) => *pm = Pm::new(pm.frequency),
        }
    }

    /// What a load of the register at `offset` gives at `now`. Registers are of 32 bits; all else reads zero.
    #[must_use]
    pub fn read(&self, offset: u32, width: Width, now: u64) -> u64 {
        if width == Width::Double {
            let low = self.read(offset, Width::Word, now);
            return low | self.read(offset.wrapping_add(4), Width::Word, now) << 32;
        }
        if width != Width::Word {
            return 0;
        }
        u64::from(match self {
            Self::Generic(generic) => generic.read(offset, now),
            Self::Pm(pm) => pm.read(offset, now),
        })
    }

    /// A store to the register at `offset` at `now`. What is not of 32 bits is ignored.
    pub fn write(&mut self, offset: u32, width: Width, value: u64, now: u64) {
        if width != Width::Word {
            return;
        }
        match self {
            Self::Generic(generic) => generic.write(offset, low_word(value), now),
            Self::Pm(pm) => pm.write(offset, low_word(value), now),
        }
    }

    /// When it ends, if it is armed.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        match self {
            Self::Generic(generic) => generic.deadline(),
            Self::Pm(pm) => pm.deadline,
        }
    }

    /// Whether it has ended by `now`, and what that asks for. It is not armed any more then.
    pub fn expire(&mut self, now: u64) -> Option<Expired> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        let expired = match self {
            Self::Pm(pm) if pm.status & pm::HALT == pm::HALT => Expired::PowerOff,
            _ => Expired::Reset,
        };
        self.reset();
        Some(expired)
    }
}

/// Arm's generic watchdog, revision 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Generic {
    is_enabled: bool,
    /// WOR: ticks.
    offset: u32,
    /// WCV: when its first signal comes; its end is one offset later.
    compare: u64,
}

/// Offsets in the control frame, and in the refresh frame behind it.
mod generic {
    pub const WCS: u32 = 0x000;
    pub const WOR: u32 = 0x008;
    pub const WCV_LOW: u32 = 0x010;
    pub const WCV_HIGH: u32 = 0x014;
    pub const W_IIDR: u32 = 0xfcc;
    pub const WRR: u32 = 0x1000;
    pub const REFRESH_IIDR: u32 = 0x1fcc;
    /// Of WCS.
    pub const EN: u32 = 1;
    pub const WS0: u32 = 1 << 1;
    /// Designer Arm, revision 0 of the architecture.
    pub const ID: u32 = 0x43b;
}

impl Generic {
    fn refresh(&mut self, now: u64) {
        self.compare = now.saturating_add(self.offset.into());
    }

    fn deadline(&self) -> Option<u64> {
        self.is_enabled
            .then(|| self.compare.saturating_add(self.offset.into()))
    }

    fn read(&self, offset: u32, now: u64) -> u32 {
        match offset {
            generic::WCS => {
                let is_late = self.is_enabled && now >= self.compare;
                u32::from(self.is_enabled) | if is_late { generic::WS0 } else { 0 }
            }
            generic::WOR => self.offset,
            generic::WCV_LOW => low_word(self.shown(now)),
            generic::WCV_HIGH => low_word(self.shown(now) >> 32),
            generic::W_IIDR | generic::REFRESH_IIDR => generic::ID,
            _ => 0,
        }
    }

    /// With its first signal, WCV moves on by an offset.
    fn shown(&self, now: u64) -> u64 {
        if self.is_enabled && now >= self.compare {
            self.compare.saturating_add(self.offset.into())
        } else {
            self.compare
        }
    }

    fn write(&mut self, offset: u32, value: u32, now: u64) {
        match offset {
            generic::WCS => {
                self.is_enabled = value & generic::EN != 0;
                self.refresh(now);
            }
            generic::WOR => {
                self.offset = value;
                self.refresh(now);
            }
            generic::WCV_LOW => {
                self.compare = self.compare & !u64::from(u32::MAX) | u64::from(value)
            }
            generic::WCV_HIGH => {
                self.compare = u64::from(low_word(self.compare)) | u64::from(value) << 32;
            }
            generic::WRR => self.refresh(now),
            _ => {}
        }
    }
}

/// The Raspberry Pi's.
#[derive(Clone, Copy, Debug)]
pub struct Pm {
    frequency: u64,
    control: u32,
    status: u32,
    /// PM_WDOG as last written.
    ticks: u32,
    /// When that has passed.
    ends_at: u64,
    deadline: Option<u64>,
}

/// Registers and their fields.
mod pm {
    pub const RSTC: u32 = 0x1c;
    pub const RSTS: u32 = 0x20;
    pub const WDOG: u32 = 0x24;
    /// In the upper byte of each store, else it is ignored.
    pub const PASSWORD: u32 = 0x5a;
    pub const VALUE: u32 = 0x00ff_ffff;
    /// Of RSTC: what the watchdog's end does, and that it resets everything.
    pub const ACTION: u32 = 0x30;
    pub const FULL_RESET: u32 = 0x20;
    /// Of WDOG: what is left, in 1/65536 s.
    pub const TICKS: u32 = 0xf_ffff;
    pub const TICKS_HZ: u64 = 1 << 16;
    /// Of RSTS: boot partition 63, which firmware takes for "halt".
    pub const HALT: u32 = 0x555;
    /// Values after power-on.
    pub const RSTC_RESET: u32 = 0x102;
    pub const RSTS_RESET: u32 = 0x1000;
}

impl Pm {
    const fn new(frequency: u64) -> Self {
        Self {
            frequency,
            control: pm::RSTC_RESET,
            status: pm::RSTS_RESET,
            ticks: 0,
            ends_at: 0,
            deadline: None,
        }
    }

    fn read(&self, offset: u32, now: u64) -> u32 {
        match offset {
            pm::RSTC => self.control,
            pm::RSTS => self.status,
            pm::WDOG => {
                let left = u128::from(self.ends_at.saturating_sub(now));
                let ticks = left
                    .saturating_mul(pm::TICKS_HZ.into())
                    .checked_div(self.frequency.into());
                let ticks = ticks.and_then(|ticks| u32::try_from(ticks).ok());
                ticks.unwrap_or(0) & pm::TICKS
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: u32, value: u32, now: u64) {
        if value >> 24 != pm::PASSWORD {
            return;
        }
        let value = value & pm::VALUE;
        match offset {
            pm::RSTC => self.control = value,
            pm::RSTS => self.status = value,
            pm::WDOG => {
                self.ticks = value & pm::TICKS;
                let ticks = u128::from(self.ticks)
                    .saturating_mul(self.frequency.into())
                    .div_ceil(pm::TICKS_HZ.into());
                self.ends_at = now.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX));
            }
            _ => return,
        }
        let is_armed = self.control & pm::ACTION == pm::FULL_RESET && self.ticks != 0;
        self.deadline = is_armed.then_some(self.ends_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 1_000_000;
    const PASSWORD: u64 = 0x5a00_0000;

    fn word(watchdog: &mut Watchdog, offset: u32, value: u64, now: u64) {
        watchdog.write(offset, Width::Word, value, now);
    }

    #[test]
    fn nothing_happens_before_it_is_armed() {
        for kind in [Kind::Generic, Kind::Pm] {
            let mut watchdog = Watchdog::new(kind, HZ);
            assert_eq!(watchdog.deadline(), None);
            assert_eq!(watchdog.expire(u64::MAX), None);
        }
    }

    /// As Linux's `sbsa_gwdt` does it: half of the timeout as offset, since it ends after two.
    #[test]
    fn the_generic_one_ends_after_two_offsets() {
        let mut dog = Watchdog::new(Kind::Generic, HZ);
        word(&mut dog, 0x008, 5 * HZ, 100);
        assert_eq!(dog.deadline(), None);
        word(&mut dog, 0x000, 1, 1_000);
        assert_eq!(dog.deadline(), Some(1_000 + 10 * HZ));
        assert_eq!(dog.read(0x000, Width::Word, 1_000), 1);
        assert_eq!(dog.read(0x010, Width::Double, 1_000), 1_000 + 5 * HZ);
        assert_eq!(dog.read(0x000, Width::Word, 1_000 + 5 * HZ), 0b11);
        assert_eq!(
            dog.read(0x010, Width::Double, 1_000 + 5 * HZ),
            1_000 + 10 * HZ
        );
        // Fed in the refresh frame, with any value, even after its first signal.
        let fed = 1_000 + 7 * HZ;
        word(&mut dog, 0x1000, 0, fed);
        assert_eq!(dog.read(0x000, Width::Word, fed), 1);
        assert_eq!(dog.expire(fed + 10 * HZ - 1), None);
        assert_eq!(dog.expire(fed + 10 * HZ), Some(Expired::Reset));
        assert_eq!((dog.deadline(), dog.read(0x008, Width::Word, 0)), (None, 0));
    }

    #[test]
    fn the_generic_one_can_be_turned_off_and_read() {
        let mut dog = Watchdog::new(Kind::Generic, HZ);
        word(&mut dog, 0x008, u64::from(u32::MAX), 0);
        word(&mut dog, 0x000, 1, u64::MAX - 3);
        assert_eq!(dog.deadline(), Some(u64::MAX));
        word(&mut dog, 0x010, 0x10, 0);
        word(&mut dog, 0x014, 0x2, 0);
        assert_eq!(dog.read(0x014, Width::Word, 0), 2);
        assert_eq!(dog.deadline(), Some(0x2_0000_0010 + u64::from(u32::MAX)));
        assert_eq!(dog.read(0xfcc, Width::Word, 0), 0x43b);
        assert_eq!(dog.read(0x1fcc, Width::Word, 0), 0x43b);
        assert_eq!(dog.read(0xffc, Width::Word, 0), 0);
        word(&mut dog, 0x000, 0, 0);
        assert_eq!(dog.deadline(), None);
    }

    /// As Linux's `bcm2835_wdt` does it.
    #[test]
    fn the_pis_is_started_fed_and_stopped() {
        let mut dog = Watchdog::new(Kind::Pm, HZ);
        assert_eq!(dog.read(0x1c, Width::Word, 0), 0x102);
        let start = |dog: &mut Watchdog, seconds: u64, now| {
            word(dog, 0x24, PASSWORD | seconds << 16, now);
            let control = dog.read(0x1c, Width::Word, now) & !0x30 | 0x20;
            word(dog, 0x1c, PASSWORD | control, now);
        };
        start(&mut dog, 15, 500);
        assert_eq!(dog.deadline(), Some(500 + 15 * HZ));
        assert_eq!(dog.read(0x24, Width::Word, 500 + 5 * HZ), 10 << 16);
        start(&mut dog, 15, 10 * HZ);
        assert_eq!(dog.expire(25 * HZ - 1), None);
        word(&mut dog, 0x1c, PASSWORD | 0x102, 11 * HZ);
        assert_eq!(dog.deadline(), None);
        start(&mut dog, 1, 12 * HZ);
        assert_eq!(dog.expire(13 * HZ), Some(Expired::Reset));
        assert_eq!(dog.deadline(), None);
    }

    #[test]
    fn the_pis_halts_when_it_is_told_so_and_needs_its_password() {
        let mut dog = Watchdog::new(Kind::Pm, HZ);
        word(&mut dog, 0x24, 10, 0);
        word(&mut dog, 0x1c, 0x20, 0);
        assert_eq!(dog.deadline(), None);
        word(&mut dog, 0x20, PASSWORD | 0x1555, 0);
        word(&mut dog, 0x24, PASSWORD | 10, 0);
        word(&mut dog, 0x1c, PASSWORD | 0x122, 0);
        assert_eq!(dog.deadline(), Some(153));
        assert_eq!(dog.expire(153), Some(Expired::PowerOff));
        assert_eq!(dog.read(0x20, Width::Word, 0), 0x1000);
    }

    #[test]
    fn only_whole_registers_are_written() {
        let mut dog = Watchdog::new(Kind::Generic, HZ);
        dog.write(0x000, Width::Byte, 1, 0);
        dog.write(0x000, Width::Double, 1, 0);
        dog.write(0x002, Width::Word, 1, 0);
        assert_eq!(dog.deadline(), None);
        assert_eq!(dog.read(0xfcc, Width::Byte, 0), 0);
    }

    proptest::proptest! {
        /// Whatever is written, it answers, and it ends only when it is due.
        #[test]
        fn it_never_ends_early(
            writes in proptest::collection::vec((0_u32..0x40, proptest::num::u64::ANY, proptest::num::u32::ANY), 0..60),
            pm in proptest::bool::ANY,
        ) {
            let mut dog = Watchdog::new(if pm { Kind::Pm } else { Kind::Generic }, HZ);
            let mut now = 0;
            for (offset, value, later) in writes {
                now += u64::from(later);
                dog.write(offset & !3, Width::Word, if pm { PASSWORD | value & 0xff_ffff } else { value }, now);
                let _ = dog.read(offset, Width::Double, now);
                let deadline = dog.deadline();
                let ended = dog.clone().expire(now).is_some();
                proptest::prop_assert_eq!(ended, deadline.is_some_and(|deadline| deadline <= now));
            }
        }
    }
}
