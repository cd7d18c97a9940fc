// Accesses that a guest asked for to registers of its devices. A device may answer with an external
// abort; so may EL2's own access in the guest's stead, which is then the guest's abort. So these are the
// only instructions of EL2 that may fault: el2_sync_entry (vectors.S) sends such a fault to device_fault.
//
// An exception taken here overwrites what EL2 knows of the exit that it serves: it is kept in x2-x4.

.section .text.device, "ax"

.macro device_access name, instruction:vararg
.global \name
\name:
    mrs     x2, ELR_EL2
    mrs     x3, SPSR_EL2
    mrs     x4, FAR_EL2
    \instruction
    mov     x1, xzr
    ret
.endm

.global device_first
device_first:
device_access device_load8,   ldrb w0, [x0]     // x0 address; returns x0 value, x1 not 0 if it faulted
device_access device_load16,  ldrh w0, [x0]
device_access device_load32,  ldr w0, [x0]
device_access device_store8,  strb w1, [x0]     // x0 address, x1 value; returns x1 not 0 if it faulted
device_access device_store16, strh w1, [x0]
device_access device_store32, str w1, [x0]
// Not a device's: DBGCLAIMCLR_EL1, which QEMU has only from version 8 on. x0 tags.
device_access clear_claim_tags, msr S2_0_C7_C9_6, x0
.global device_last
device_last:

.global device_fault
device_fault:
    msr     ELR_EL2, x2
    msr     SPSR_EL2, x3
    msr     FAR_EL2, x4
    mov     x0, xzr
    mov     x1, #1
    ret

// Takes the SError that waits for this core, if one does: an access that the guest made, or EL2 in its stead,
// and that a device answered with an abort after it had been let go. Returns its syndrome, else 0.
//
// The barrier completes the guest's accesses, and with them the aborts of those that report (DDI 0487,
// B2.3.12); ISR_EL1.A then says whether one is pending (D19.2.62). Unmasked, it is taken to EL2 by AMO, and the
// ISB sees that this is before the next instruction.
.global take_serror
take_serror:
    mov     x0, xzr
    dsb     sy
    isb
    mrs     x1, ISR_EL1
    tbz     x1, #8, 1f
    mrs     x2, ELR_EL2
    mrs     x3, SPSR_EL2
    mrs     x4, ESR_EL2
    msr     DAIFClr, #4
serror_first:
    isb
    nop
serror_last:
    msr     DAIFSet, #4
    isb
    msr     ELR_EL2, x2
    msr     SPSR_EL2, x3
    msr     ESR_EL2, x4
1:  ret
