//! Hands the linker script to the linker, for the bare-metal target alone.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../linker/guest.ld");
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{script}");
        // It runs wherever its RAM is: `boot.rs` relocates it, constant data too.
        for arg in ["-pie", "--no-dynamic-linker", "-znotext"] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}
