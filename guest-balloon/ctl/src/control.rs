//! The way to the hypervisor: the balloon module's device. One write is a command, reading gives its answer.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The device, open.
pub struct Control(File);

impl Control {
    /// Opens the device.
    pub fn open(device: &Path) -> Result<Self> {
        match OpenOptions::new().read(true).write(true).open(device) {
            Ok(file) => Ok(Self(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "there is no {}: load the balloon module (ballast_balloon), and give this guest `control;` in the \
                 partitions",
                device.display()
            ),
            Err(error) => Err(error).with_context(|| {
                format!(
                    "cannot open {}, which is root's by default",
                    device.display()
                )
            }),
        }
    }

    /// The answer to one command, in lines. The device takes a command by one write.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let sent = self.0.write(line.as_bytes());
        let sent = sent.with_context(|| format!("'{line}' was not taken"))?;
        if sent != line.len() {
            bail!("'{line}' was taken in part");
        }
        let mut answer = String::new();
        self.0
            .read_to_string(&mut answer)
            .context("cannot read the answer")?;
        Ok(answer)
    }
}
