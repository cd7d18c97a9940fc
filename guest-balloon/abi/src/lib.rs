//! The balloon interface: what a guest's driver and Ballast say to each other.
//!
//! Every call is an SMCCC fast HVC64 in the vendor-specific hypervisor range (DEN0028, owning
//! entity 6). Arguments are in x1..x4, results in x0..x3; x4..x17 are preserved. `docs/abi.md`
//! is the prose; this crate is the only place where the numbers stand. Both sides use it, so it
//! depends on nothing and does nothing.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod message;

/// Version of this interface: major in bits 31:16, minor in bits 15:0. A driver works with any
/// minor of its own major.
pub const VERSION: u32 = (1 << 16) | 2;

/// Function identifiers (x0/w0 of the HVC).
pub mod function {
    /// SMCCC "Call UID" of the vendor-specific hypervisor service: returns [`crate::UID`] in w0..w3.
    pub const UID: u32 = 0x8600_ff01;
    /// `() -> status, version`. See [`crate::VERSION`].
    pub const VERSION: u32 = 0xc600_0001;
    /// `() -> status, feature bits` (see [`crate::feature`]).
    pub const FEATURES: u32 = 0xc600_0002;
    /// `(list page IPA, granule) -> status, epoch, pages of the guest's maximum not backed now`.
    ///
    /// The granule is the [`Order`](crate::Order) of the guest's own page: entries smaller than that are refused from
    /// then on. Without [`GRANULE`](crate::feature::GRANULE) it must be 0.
    ///
    /// Registers the driver. The list page is translated once and pinned: it cannot be reserved
    /// while registered. HELLO always wins over an earlier driver, bumps the epoch (so that a
    /// stale driver's calls do nothing) and changes no ownership.
    pub const HELLO: u32 = 0xc600_0003;
    /// `() -> status, reserve target in pages, sequence (31:0) | CPU target (63:32), deadline`.
    ///
    /// The reservation target is how many 4 KiB pages of the guest's maximum the driver shall hold
    /// reserved (so not backed). The deadline is an absolute CNTVCT value, 0 for none. Fetching
    /// acknowledges the sequence: the interrupt falls.
    pub const TARGET: u32 = 0xc600_0004;
    /// `(n, epoch) -> status, entries consumed, pages done`: guest to Ballast, over the first n entries of the
    /// list page. Fewer than n consumed is normal (work bound): the driver moves the rest to the start of the
    /// list and calls again.
    pub const RESERVE: u32 = 0xc600_0005;
    /// `(n, epoch) -> status, entries consumed, pages done`: Ballast to guest, over the list page in the same way.
    pub const RELEASE: u32 = 0xc600_0006;
    /// `(pages needed) -> status, reserve target in pages as it is now`: a guest in trouble asks for memory at once.
    pub const PRESSURE: u32 = 0xc600_0007;
    /// `(free, available, pressure, refaults) -> status`: pages, pages, 0..=1000, pages a second.
    ///
    /// With [`RUN_QUEUE`](crate::feature::RUN_QUEUE) bits 63:32 of x3 say how many threads run or wait to run, in
    /// thousandths and at least 1; 0 says nothing of it.
    pub const REPORT: u32 = 0xc600_0008;
    /// `(ipa) -> status, backed (0 or 1), pages from ipa on in the same state`.
    ///
    /// With this a reloaded driver, a kexec'ed kernel or kdump learns what is there. Stops at the
    /// end of the guest's memory. The run may be cut short by the work bound: ask again behind it.
    pub const QUERY: u32 = 0xc600_0009;
    /// `(epoch) -> status`: the driver leaves. Its list page is an ordinary page again; ownership stays.
    pub const GOODBYE: u32 = 0xc600_000a;
    /// `(channel) -> status`: rings the doorbell of the channel's other guest.
    ///
    /// What the caller has stored before is visible to whoever fetches the event. Doorbells that are rung before the
    /// other side has fetched are one event. [`crate::Status::PeerStopped`] if there is nobody to hear it.
    pub const SIGNAL: u32 = 0xc600_0010;
    /// `(channel) -> status, events since the last fetch, the other guest's life` (see [`crate::channel`]).
    ///
    /// Fetching clears the events, and the next one interrupts again. Never waits and never fails for an end of the
    /// caller's own.
    pub const CHANNEL: u32 = 0xc600_0011;
    /// `(n, n bytes in x2..x16) -> status`: carries out one line of the monitor's language, without its end of line.
    ///
    /// n is at most [`crate::control::LINE_BYTES`]; with n = 0 the call only tells whether the guest may. The bytes of
    /// a register count from bit 0 up. [`crate::Status::Denied`] without `control;` in the guest's configuration,
    /// [`crate::Status::Busy`] before the last answer was read to its end.
    pub const CONTROL: u32 = 0xc600_0020;
    /// `(what, argument) -> status, up to three values`: see [`crate::self_test`]. Not there without `self-test;` in
    /// the guest's configuration.
    pub const SELF_TEST: u32 = 0xc600_0030;
    /// `() -> status, n, n bytes in x2..x17`: the next piece of the answer; n = 0 at its end. Lines end with LF.
    pub const CONTROL_ANSWER: u32 = 0xc600_0021;
}

/// Channels: memory that two guests share, with a doorbell each.
pub mod channel {
    /// Channels in one configuration: their numbers are below this.
    pub const MAX_CHANNELS: usize = 16;
    /// Event: the other guest has rung.
    pub const RUNG: u64 = 1 << 0;
    /// Event: the other guest has started.
    pub const PEER_STARTED: u64 = 1 << 1;
    /// Event: the other guest has stopped, for a reset or for good.
    pub const PEER_STOPPED: u64 = 1 << 2;
    /// All events there are.
    pub const EVENTS: u64 = RUNG | PEER_STARTED | PEER_STOPPED;
    /// In x2 of [`CHANNEL`](crate::function::CHANNEL): the other guest runs.
    pub const PEER_RUNNING: u64 = 1 << 32;
    /// In x2: how often the other guest has started since power-on, modulo 2^32.
    pub const PEER_GENERATION: u64 = 0xffff_ffff;
}

/// The UID Ballast answers to [`function::UID`], as w0..w3:
/// `b4b8a5c2-6f0e-4d5b-9c3a-42616c6c7374` (the last bytes spell "Ballst").
pub const UID: [u32; 4] = [0xc2a5_b8b4, 0x5b4d_0e6f, 0x6142_3a9c, 0x7473_6c6c];

/// The monitor's calls, for a guest that has the right to them.
pub mod control {
    /// Longest line of [`CONTROL`](crate::function::CONTROL).
    pub const LINE_BYTES: usize = 120;
    /// Longest piece of [`CONTROL_ANSWER`](crate::function::CONTROL_ANSWER).
    pub const ANSWER_BYTES: usize = 128;
}

/// What [`function::SELF_TEST`] does for a guest that tests the board.
pub mod self_test {
    /// `(n) -> status, value`: fact n, of the calling core where it is the core's; see [`FACTS`].
    /// [`crate::Status::InvalidParameters`] from the end of the list on.
    pub const FACT: u64 = 0;
    /// `(n) -> status, first address, bytes`: the board's n-th range of RAM.
    /// [`crate::Status::InvalidParameters`] behind the last.
    pub const RAM: u64 = 1;
    /// `(IPA) -> status, PA`: where a page of the guest's is on the board, for devices that know no other
    /// addresses. [`crate::Status::InvalidAddress`] if it is not backed.
    pub const FRAME: u64 = 2;
    /// `(PA) -> status, next PA, pages, first that failed or 0`: walks free frames of whole 2 MiB blocks, in bounded
    /// pieces from the page at PA on, with patterns through cacheable and non-cacheable addresses; they are zero
    /// afterwards. Begin with 0, go on with the next PA, end at [`WALKED`].
    pub const WALK: u64 = 3;
    /// The next PA when all of RAM has been walked.
    pub const WALKED: u64 = u64::MAX;

    /// Names of the facts, by number: registers as EL2 reads them, but for the last, which says how many list
    /// registers Ballast uses.
    pub const FACTS: [&str; 26] = [
        "midr_el1",
        "mpidr_el1",
        "revidr_el1",
        "ctr_el0",
        "dczid_el0",
        "clidr_el1",
        "ccsidr_l1d",
        "ccsidr_l1i",
        "ccsidr_l2",
        "id_aa64pfr0_el1",
        "id_aa64dfr0_el1",
        "id_aa64isar0_el1",
        "id_aa64mmfr0_el1",
        "id_aa64mmfr1_el1",
        "sctlr_el2",
        "hcr_el2",
        "mdcr_el2",
        "cptr_el2",
        "vtcr_el2",
        "cntfrq_el0",
        "pmcr_el0",
        "gic_vtr",
        "gicd_typer",
        "gic_iidr",
        "own_bytes",
        "list_registers",
    ];
}

/// Feature bits that [`function::FEATURES`] returns in x1.
pub mod feature {
    /// Memory moves (RESERVE, RELEASE, QUERY).
    pub const MEMORY: u64 = 1 << 0;
    /// CPU targets are given.
    pub const CPUS: u64 = 1 << 1;
    /// PRESSURE is honoured.
    pub const PRESSURE: u64 = 1 << 2;
    /// REPORT is evaluated.
    pub const REPORT: u64 = 1 << 3;
    /// SIGNAL and CHANNEL exist; which channels the guest has, its device tree says.
    pub const CHANNELS: u64 = 1 << 4;
    /// The guest's RAM is at the board's addresses: it gives and gets whole 2 MiB blocks only, and each is
    /// always the same memory.
    pub const WHOLE_BLOCKS: u64 = 1 << 5;
    /// REPORT takes the run queue in bits 63:32 of x3.
    pub const RUN_QUEUE: u64 = 1 << 6;
    /// HELLO takes a granule, and entries of order 2 (16 KiB) exist.
    pub const GRANULE: u64 = 1 << 7;
}

/// Status of a call, in x0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Status {
    /// Done (per-entry statuses say how each entry fared).
    Success = 0,
    /// No such function (SMCCC, DEN0028 section 5.2).
    NotSupported = -1,
    /// An argument or flag has no meaning.
    InvalidParameters = -2,
    /// Right call, wrong caller or time: policy says no.
    Denied = -3,
    /// Another call of this guest is in progress; try again.
    Busy = -4,
    /// The epoch is not the current one: another driver has said HELLO. Nothing was done.
    WrongEpoch = -5,
    /// No driver has said HELLO, or the last one has said GOODBYE.
    NoDriver = -6,
    /// SIGNAL: the other guest of the channel does not run, so nobody heard it.
    PeerStopped = -7,
    /// The list page is not the guest's own ordinary memory.
    InvalidAddress = -9,
}

impl Status {
    /// The status in register form.
    #[must_use]
    pub const fn to_register(self) -> u64 {
        (self as i64).cast_unsigned()
    }

    /// From x0 of a returned call; `None` for a value this version does not know.
    #[must_use]
    pub const fn from_register(x0: u64) -> Option<Self> {
        Some(match x0.cast_signed() {
            0 => Self::Success,
            -1 => Self::NotSupported,
            -2 => Self::InvalidParameters,
            -3 => Self::Denied,
            -4 => Self::Busy,
            -5 => Self::WrongEpoch,
            -6 => Self::NoDriver,
            -7 => Self::PeerStopped,
            -9 => Self::InvalidAddress,
            _ => return None,
        })
    }
}

/// Entries in the list page: 512 of eight bytes.
pub const LIST_ENTRIES: usize = 512;
/// Bytes in a page of the interface, whatever the guest's own page size.
pub const PAGE_SIZE: u64 = 4096;

/// How many pages one list entry covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Order {
    /// One 4 KiB page.
    Page = 0,
    /// 16 KiB: 4 pages.
    Pages4 = 2,
    /// 64 KiB: 16 pages.
    Pages16 = 4,
    /// 2 MiB: 512 pages.
    Block = 9,
}

impl Order {
    /// All there are, the smallest first.
    pub const ALL: [Self; 4] = [Self::Page, Self::Pages4, Self::Pages16, Self::Block];

    /// From log2 of the page count; only 0, 2, 4 and 9 exist.
    #[must_use]
    pub const fn new(order: u8) -> Option<Self> {
        Some(match order {
            0 => Self::Page,
            2 => Self::Pages4,
            4 => Self::Pages16,
            9 => Self::Block,
            _ => return None,
        })
    }

    /// Pages covered.
    #[must_use]
    pub const fn pages(self) -> u64 {
        1 << self as u8
    }

    /// Bytes covered.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << self as u8
    }
}

/// One entry of the list page: bits 51:12 the IPA, 5:0 the order, 63:56 the status that Ballast
/// writes, all others zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    const IPA_MASK: u64 = 0x000f_ffff_ffff_f000;
    const ORDER_MASK: u64 = 0x3f;
    const STATUS_SHIFT: u32 = 56;

    /// An entry as the driver writes it: `ipa` aligned to the order's size.
    #[must_use]
    pub const fn new(ipa: u64, order: Order) -> Self {
        Self((ipa & Self::IPA_MASK) | order as u64)
    }

    /// The IPA, bits 51:12.
    #[must_use]
    pub const fn ipa(self) -> u64 {
        self.0 & Self::IPA_MASK
    }

    /// The order field, checked.
    #[must_use]
    pub const fn order(self) -> Option<Order> {
        // Masked to six bits, so it fits.
        Order::new((self.0 & Self::ORDER_MASK) as u8)
    }

    /// Whether the bits that must be zero on the way in (the status field included) are zero.
    #[must_use]
    pub const fn is_well_formed(self) -> bool {
        self.0 & !(Self::IPA_MASK | Self::ORDER_MASK) == 0
    }

    /// The same entry with its status field set.
    #[must_use]
    pub const fn with_status(self, status: EntryStatus) -> Self {
        Self((self.0 & (u64::MAX >> 8)) | ((status as u64) << Self::STATUS_SHIFT))
    }

    /// The status Ballast wrote; `None` for one this version does not know.
    #[must_use]
    pub const fn status(self) -> Option<EntryStatus> {
        EntryStatus::new((self.0 >> Self::STATUS_SHIFT) as u8)
    }
}

/// What became of one list entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EntryStatus {
    /// Not looked at yet (the driver's own value).
    Untouched = 0,
    /// Reserved or released, all of it.
    Done = 1,
    /// A must-be-zero bit is set or the order does not exist.
    Malformed = 2,
    /// The IPA is not aligned to the order.
    Unaligned = 3,
    /// Not within the memory this guest may ever have.
    OutOfRange = 4,
    /// RESERVE: some of it is not backed (never, or reserved already).
    NotBacked = 5,
    /// RELEASE: some of it is backed already.
    AlreadyBacked = 6,
    /// The page is in use by the interface (list page) or shared.
    Pinned = 7,
    /// RELEASE: beyond the guest's target.
    OverTarget = 8,
    /// RELEASE: nothing of this size is free now. The interrupt is raised again when there is.
    NoMemory = 9,
    /// This guest gives and gets nothing so small: 2 MiB blocks only, or pages of its granule.
    WrongOrder = 10,
    /// RESERVE: the guest would fall below its minimum.
    BelowMinimum = 11,
}

impl EntryStatus {
    /// From the status field.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Untouched,
            1 => Self::Done,
            2 => Self::Malformed,
            3 => Self::Unaligned,
            4 => Self::OutOfRange,
            5 => Self::NotBacked,
            6 => Self::AlreadyBacked,
            7 => Self::Pinned,
            8 => Self::OverTarget,
            9 => Self::NoMemory,
            10 => Self::WrongOrder,
            11 => Self::BelowMinimum,
            _ => return None,
        })
    }
}

/// The device-tree node through which a guest finds Ballast.
pub mod device_tree {
    /// `compatible` of the node. Properties: `interrupts` (one level-triggered SPI), `method = "hvc"`,
    /// `memory-region` (phandles of the boot balloon's reserved-memory nodes, if there are any).
    pub const COMPATIBLE: &str = "ballast,balloon";
    /// `compatible` of the `/reserved-memory` child that covers what the guest does not have at boot.
    pub const BOOT_BALLOON_COMPATIBLE: &str = "ballast,boot-balloon";
    /// The SPI number (INTID less 32) of the balloon interrupt in the generic guest machine.
    pub const BALLOON_SPI: u32 = 12;
    /// `compatible` of the node of each channel that the guest has an end of. Properties: `reg` (the shared memory),
    /// `interrupts` (one edge-triggered SPI), `label` (the channel's name), `ballast,channel` (its number, for SIGNAL
    /// and CHANNEL), and `read-only` if the guest cannot write the memory.
    pub const CHANNEL_COMPATIBLE: &str = "ballast,shared-memory";
    /// Property with the channel's number.
    pub const CHANNEL_NUMBER: &str = "ballast,channel";
    /// Property without value: the guest cannot write the memory.
    pub const CHANNEL_READ_ONLY: &str = "read-only";
    /// The SPI of channel 0 in the generic guest machine, others counting on from it: behind all that QEMU's virt
    /// machine and the BCM2711 have.
    pub const CHANNEL_SPI: u32 = 192;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_round_trips() {
        let entry = Entry::new(0x4020_0000, Order::Block);
        assert!(entry.is_well_formed());
        assert_eq!(
            (entry.ipa(), entry.order()),
            (0x4020_0000, Some(Order::Block))
        );
        let judged = entry.with_status(EntryStatus::NoMemory);
        assert!(!judged.is_well_formed());
        assert_eq!(judged.status(), Some(EntryStatus::NoMemory));
        assert_eq!((judged.ipa(), judged.order()), (entry.ipa(), entry.order()));
    }

    #[test]
    fn every_status_round_trips() {
        for raw in 0..=u8::MAX {
            if let Some(status) = EntryStatus::new(raw) {
                assert_eq!(status as u8, raw);
            }
        }
        for raw in -10..=0_i64 {
            if let Some(status) = Status::from_register(raw.cast_unsigned()) {
                assert_eq!(status.to_register(), raw.cast_unsigned());
            }
        }
    }
}
