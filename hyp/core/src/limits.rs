//! The bounds every table in the hypervisor is sized by. A board or configuration beyond one of
//! them is refused at boot with the limit's name.

/// Guests in one configuration. Their console numbers (`reg`) are 1 to 9, one key each.
pub const MAX_GUESTS: usize = 9;

/// Physical cores Ballast uses; further cores of a board stay off. GICv2 has eight CPU interfaces
/// (IHI 0048B.b, 1.4.2).
pub const MAX_CORES: usize = 8;

/// vCPUs of one guest; GICv2 cannot name more.
pub const MAX_VCPUS: usize = 8;

/// Interrupt identifiers (SGI + PPI + SPI) of a guest's distributor.
pub const MAX_INTIDS: usize = 256;

/// Ranges of a guest's RAM, which is one unless it lies where the board has it.
pub const MAX_RAM_RANGES: usize = 8;

/// Channels in one configuration.
pub const MAX_CHANNELS: usize = ballast_abi::channel::MAX_CHANNELS;
