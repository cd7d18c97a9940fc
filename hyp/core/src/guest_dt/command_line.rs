//! The names of consoles in a primary guest's command line.
//!
//! A card's own `cmdline.txt` names the board's UART. Where that is Ballast's console the guest has an emulated
//! PL011, which Linux calls differently if the board's is a mini-UART; a stock card shall show its messages all
//! the same.

use alloc::string::String;

/// What Linux calls the console UART and the emulated one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names {
    /// The number that `/aliases` gives the console (`serialN`), and so the emulated one.
    pub number: u8,
    /// The console is an 8250, of which the board has no other: Linux's `ttyS`, whatever the number.
    pub is_8250: bool,
}

impl Names {
    /// Whether `device` means the console, by a name that does not lead to the emulated one.
    fn mean(self, device: &str) -> bool {
        let is_number = |rest: &str| !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_digit());
        match device.strip_prefix("ttyS") {
            Some(rest) => self.is_8250 && is_number(rest),
            // Firmware's word for the UART on the header, where nobody has put another in its place.
            None => device == "serial0",
        }
    }

    /// `line` with every `console=` that means the console leading to the emulated one, its options kept.
    pub fn rename(self, line: &str) -> String {
        let mut renamed = String::with_capacity(line.len().saturating_add(16));
        for (index, word) in line.split(' ').enumerate() {
            if index > 0 {
                renamed.push(' ');
            }
            let device = word.strip_prefix("console=");
            let (device, options) = match device {
                Some(rest) => rest.split_at(rest.find(',').unwrap_or(rest.len())),
                None => ("", ""),
            };
            if self.mean(device) {
                renamed.push_str(&alloc::format!("console=ttyAMA{}{options}", self.number));
            } else {
                renamed.push_str(word);
            }
        }
        renamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_cards_console_is_the_emulated_one() {
        let mini = Names {
            number: 0,
            is_8250: true,
        };
        for (line, expected) in [
            (
                "console=ttyS0,115200 console=tty1 root=PARTUUID=1-02 rootwait",
                "console=ttyAMA0,115200 console=tty1 root=PARTUUID=1-02 rootwait",
            ),
            ("a  console=serial0,115200n8", "a  console=ttyAMA0,115200n8"),
            ("console=ttyS1", "console=ttyAMA0"),
            ("", ""),
            // Nothing else is touched.
            (
                "console=ttySC0 console=ttyS console=ttyAMA1,9600",
                "console=ttySC0 console=ttyS console=ttyAMA1,9600",
            ),
            (
                "kgdboc=ttyS0 xconsole=ttyS0 console=",
                "kgdboc=ttyS0 xconsole=ttyS0 console=",
            ),
        ] {
            assert_eq!(mini.rename(line), expected);
        }
    }

    #[test]
    fn beside_a_pl011_a_mini_uart_is_the_guests_own() {
        let pl011 = Names {
            number: 1,
            is_8250: false,
        };
        let line = "console=ttyS0,115200 console=ttyAMA0 console=serial0";
        let expected = "console=ttyS0,115200 console=ttyAMA0 console=ttyAMA1";
        assert_eq!(pl011.rename(line), expected);
    }
}
