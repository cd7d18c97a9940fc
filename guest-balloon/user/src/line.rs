//! The serial line to Ballast, and one request on it at a time.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ballast_balloon::abi::message::{self, FRAME_WORDS, Kind, Message, Received, Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::termios::{
    ControlModes, OptionalActions, QueueSelector, SpecialCodeIndex, tcflush, tcgetattr, tcsetattr,
};

/// The longest a request may take. Ballast answers within milliseconds; what is lost on the line never comes.
const PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

type Frame = message::Frame<Vec<u64>>;

fn frame() -> Frame {
    Frame::new(vec![0; FRAME_WORDS])
}

/// The line, raw, and what comes in on it.
pub struct Line {
    tty: File,
    receiver: Receiver,
    frame: Frame,
    tag: u16,
    event: bool,
    /// Bytes that were read and not looked at.
    unread: VecDeque<u8>,
}

impl Line {
    /// Opens the line. Nobody else of this program's kind may have it open.
    pub fn open(device: &Path) -> Result<Self> {
        let tty = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOCTTY.bits().cast_signed())
            .open(device)
            .with_context(|| {
                format!(
                    "cannot open {}: does the guest have `user-balloon;` in the partitions?",
                    device.display()
                )
            })?;
        flock(&tty, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("another balloon has {}", device.display()))?;
        let set_up = || -> rustix::io::Result<()> {
            let mut modes = tcgetattr(&tty)?;
            modes.make_raw();
            modes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
            modes.control_modes &= !(ControlModes::CRTSCTS | ControlModes::HUPCL);
            modes.special_codes[SpecialCodeIndex::VMIN] = 1;
            modes.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(&tty, OptionalActions::Now, &modes)?;
            // What a predecessor has left half said and unread.
            tcflush(&tty, QueueSelector::IOFlush)
        };
        set_up().with_context(|| format!("{} is no serial line", device.display()))?;
        Ok(Self {
            tty,
            receiver: Receiver::new(),
            frame: frame(),
            tag: 0,
            event: false,
            unread: VecDeque::new(),
        })
    }

    /// Makes a call; its results, and the entries of its answer.
    pub fn ask(
        &mut self,
        function: u32,
        registers: [u64; 4],
        entries: &[u64],
    ) -> Result<([u64; 4], &[u64])> {
        self.tag = self.tag.wrapping_add(1);
        let request = Message {
            kind: Kind::Request,
            tag: self.tag,
            function,
            registers,
        };
        let mut frame = frame();
        for (word, entry) in frame.room().iter_mut().zip(entries) {
            *word = *entry;
        }
        frame.set(request, entries.len());
        let mut sender = Sender::new();
        let bytes: Vec<u8> = std::iter::from_fn(|| sender.next(&frame)).collect();
        self.tty.write_all(&bytes).context("the line is gone")?;
        loop {
            while let Some(message) = self.next()? {
                if message.kind == Kind::Answer
                    && (message.tag, message.function) == (self.tag, function)
                {
                    return Ok((message.registers, self.frame.entries()));
                }
            }
            let mut tty = [PollFd::new(&self.tty, PollFlags::IN)];
            ensure!(
                poll(&mut tty, Some(&PATIENCE)).is_ok_and(|ready| ready > 0),
                "no answer in {} s: the request or its answer was lost",
                PATIENCE.tv_sec
            );
            self.fill()?;
        }
    }

    /// Whether Ballast has sent an event since the last look.
    pub fn take_event(&mut self) -> Result<bool> {
        while self.next()?.is_some() {}
        Ok(std::mem::take(&mut self.event))
    }

    /// Reads what has come, at least a byte.
    pub fn fill(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        let count = self.tty.read(&mut bytes).context("the line is gone")?;
        ensure!(count > 0, "the line was hung up");
        self.unread.extend(&bytes[..count]);
        Ok(())
    }

    /// The next message among what was read. Its entries are there until the one after it.
    fn next(&mut self) -> Result<Option<Message>> {
        while let Some(byte) = self.unread.pop_front() {
            let Some(Received::Message(message)) = self.receiver.push(&mut self.frame, byte) else {
                continue;
            };
            match message.kind {
                Kind::Event => self.event = true,
                Kind::Request => bail!("the line echoes: it is not Ballast's"),
                // One may be for a predecessor, or for its last words that were cut off.
                Kind::Answer | Kind::Malformed => {}
            }
            return Ok(Some(message));
        }
        Ok(None)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tty.as_fd()
    }
}
