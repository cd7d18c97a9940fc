//! What a core does: run its vCPU, or wait for one.

/// A core without a running vCPU: sleeps until it is asked for something.
pub fn core_loop() -> ! {
    crate::boot::park()
}

/// Where `restart_core` continues.
#[unsafe(no_mangle)]
extern "C" fn rust_core_loop() -> ! {
    core_loop()
}
