//! What the operator types: for the guest in focus, for the monitor, or a command to the console itself.
//!
//! Nothing is shown from here. What there is to say about a key goes to the messages, and the terminal follows
//! the view when the console is pulled.

use super::{Console, Name, Sources, View};

/// The key that makes the next one a command to the console: Ctrl-].
const ESCAPE: u8 = 0x1d;

impl Console {
    /// A byte from the physical UART, at `now` (CNTVCT_EL0). The console is then to be pulled.
    pub fn type_byte(&mut self, shell: &impl Sources, now: u64, byte: u8) {
        match (core::mem::take(&mut self.escaped), byte) {
            (false, ESCAPE) => self.escaped = true,
            (false, byte) | (true, byte @ ESCAPE) => self.deliver(shell, now, byte),
            (true, key) => self.obey(shell, key),
        }
    }

    fn deliver(&mut self, shell: &impl Sources, now: u64, byte: u8) {
        let taken = match self.view {
            View::Focus(guest) => shell.uart(guest, |uart| uart.type_byte(byte)),
            View::Monitor => self.monitor.type_byte(byte),
            View::Shared => return self.stray(shell, now),
        };
        let told = core::mem::replace(&mut self.refusing, !taken);
        if !taken && !told {
            shell.messages(|messages| match self.view {
                View::Focus(guest) => messages.line(format_args!(
                    "guest {} does not read its input; what is typed now is lost",
                    Name(&self.labels, guest)
                )),
                _ => messages.line(format_args!(
                    "too much typed ahead; what is typed now is lost"
                )),
            });
        }
    }

    /// Typed while no guest is in focus: one hint a burst, which a silence of a second ends.
    fn stray(&mut self, shell: &impl Sources, now: u64) {
        let last = self.stray_ticks.replace(now);
        if last.is_some_and(|last| now.saturating_sub(last) < self.ticks_per_second) {
            return;
        }
        shell.messages(|messages| {
            messages.line(format_args!(
                "input needs a focus: Ctrl-] and a guest's number ({}), Ctrl-] ? for help",
                self.labels
            ));
        });
    }

    fn obey(&mut self, shell: &impl Sources, key: u8) {
        let view = match key {
            b'a' | b'A' => View::Shared,
            b'm' | b'M' => View::Monitor,
            b'1'..=b'9' => match self.labels.by_number(key.wrapping_sub(b'0')) {
                Some(guest) => View::Focus(guest),
                None => return self.explain(shell, "no guest has this number"),
            },
            b'?' => return self.explain(shell, "console keys"),
            _ => return self.explain(shell, "no such key"),
        };
        self.view = view;
        self.refusing = false;
        self.stray_ticks = None;
    }

    fn explain(&self, shell: &impl Sources, what: &str) {
        shell.messages(|messages| {
            messages.line(format_args!(
                "{what}. Ctrl-] then: 1-9 focus on a guest, a all guests, m monitor, ? help, Ctrl-] sends it"
            ));
            messages.line(format_args!("guests: {}", self.labels));
        });
    }
}
