//! The virtual CPU interface's control registers of this core.
//!
//! Apart from the board's controller because these are about a guest's interrupts, not the board's, and each core has
//! its own.

use core::arch::asm;

macro_rules! readable {
    ($($read:ident: $name:literal, $doc:literal;)*) => {$(
        #[doc = concat!("Reads ", $doc, ".")]
        #[inline]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reads a register of the virtual CPU interface; no side effect.
            unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
    )*};
}

macro_rules! writable {
    ($($write:ident: $name:literal, $doc:literal;)*) => {$(
        #[doc = concat!("Writes ", $doc, ".")]
        #[inline]
        pub fn $write(value: u64) {
            // SAFETY: affects only the guest's virtual interrupts on this core.
            unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) };
        }
    )*};
}

readable! {
    vtr: "S3_4_C12_C11_1", "ICH_VTR_EL2";
    eisr: "S3_4_C12_C11_3", "ICH_EISR_EL2";
    elrsr: "S3_4_C12_C11_5", "ICH_ELRSR_EL2";
}

writable! {
    set_hcr: "S3_4_C12_C11_0", "ICH_HCR_EL2";
    set_vmcr: "S3_4_C12_C11_7", "ICH_VMCR_EL2";
}

/// Forgets every active priority: as many registers of each group as there are preemption bits
/// for (12.4.1, 12.4.2).
pub fn reset_active_priorities() {
    macro_rules! zero {
        ($($name:literal),*) => {
            // SAFETY: affects only the guest's virtual interrupts on this core; the register exists.
            unsafe { core::arch::asm!($(concat!("msr ", $name, ", xzr"),)* options(nomem, nostack, preserves_flags)) }
        };
    }
    // ICH_VTR_EL2.PREbits is one less.
    let bits = ((vtr() >> 26) & 7) + 1;
    zero!("S3_4_C12_C8_0", "S3_4_C12_C9_0");
    if bits >= 6 {
        zero!("S3_4_C12_C8_1", "S3_4_C12_C9_1");
    }
    if bits >= 7 {
        zero!(
            "S3_4_C12_C8_2",
            "S3_4_C12_C9_2",
            "S3_4_C12_C8_3",
            "S3_4_C12_C9_3"
        );
    }
}

macro_rules! list_registers {
    ($($index:literal => $name:literal),*) => {
        /// ICH_LR\<n\>_EL2; 0 for an index beyond 15.
        #[inline]
        pub fn list_register(index: usize) -> u64 {
            let mut value = 0_u64;
            // SAFETY: reads a list register of this core.
            unsafe {
                match index {
                    $($index => asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)),)*
                    _ => {}
                }
            }
            value
        }

        /// Writes ICH_LR\<n\>_EL2; nothing beyond 15.
        #[inline]
        pub fn set_list_register(index: usize, value: u64) {
            // SAFETY: affects only the guest's virtual interrupts on this core.
            unsafe {
                match index {
                    $($index => asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)),)*
                    _ => {}
                }
            }
        }
    };
}

list_registers!(
    0 => "S3_4_C12_C12_0", 1 => "S3_4_C12_C12_1", 2 => "S3_4_C12_C12_2", 3 => "S3_4_C12_C12_3",
    4 => "S3_4_C12_C12_4", 5 => "S3_4_C12_C12_5", 6 => "S3_4_C12_C12_6", 7 => "S3_4_C12_C12_7",
    8 => "S3_4_C12_C13_0", 9 => "S3_4_C12_C13_1", 10 => "S3_4_C12_C13_2", 11 => "S3_4_C12_C13_3",
    12 => "S3_4_C12_C13_4", 13 => "S3_4_C12_C13_5", 14 => "S3_4_C12_C13_6", 15 => "S3_4_C12_C13_7"
);
