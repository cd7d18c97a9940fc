//! Not yet here.
fn main() {}
