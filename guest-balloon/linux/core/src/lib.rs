//! Not yet here.
#![no_std]
