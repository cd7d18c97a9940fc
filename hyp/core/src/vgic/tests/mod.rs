//! The model against a fake machine: list registers that behave as the hardware's, physical
//! interrupts that are only counted, and CPUs that acknowledge and end what they are offered.

mod lifecycle;
mod machine;
mod random;
mod registers;
mod scenarios;
