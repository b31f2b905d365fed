//! HTTP heads that pass on a connection before a leg's bodies do.

use std::mem;

use anyhow::{Context, bail};
use midspan::protocol::Progress;
use midspan::protocol::http_head::{HEADERS_MAX, HeadPolicy, HeaderSlots, ResponseHead};
use midspan::runtime::socket::Socket;
use rustix::io::Errno;

/// What ends a head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// More than any head of a load has.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What is to be said, and what is heard.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    output: Vec<u8>,
    heard: Vec<u8>,
    has_answered: bool,
}

/// An answer of success.
#[derive(Debug)]
pub(crate) struct Success {
    /// The value of the header that was looked for.
    pub(crate) value: Option<String>,
}

impl Heads {
    pub(crate) fn say(&mut self, head: impl Into<Vec<u8>>) {
        self.output = head.into();
    }

    /// Answers what was heard, once.
    pub(crate) fn answer(&mut self, head: &str) {
        if !mem::replace(&mut self.has_answered, true) {
            self.say(head);
        }
    }

    /// Whether all that is to be said is out.
    pub(crate) fn flush(&mut self, socket: &Socket) -> anyhow::Result<bool> {
        while !self.output.is_empty() {
            match socket.send(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error).context("cannot send a head"),
            }
        }
        Ok(true)
    }

    /// Says what is to be said, and listens; whether a whole head has come.
    pub(crate) fn hear(&mut self, socket: &Socket) -> anyhow::Result<bool> {
        if !self.flush(socket)? {
            return Ok(false);
        }
        let mut buffer = [0; 1024];
        while !self
            .heard
            .windows(HEAD_END.len())
            .any(|end| end == HEAD_END)
        {
            match socket.recv(&mut buffer) {
                Ok(0) => bail!("the connection ended before a head"),
                Ok(count) => self
                    .heard
                    .extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error).context("cannot read a head"),
            }
            if self.heard.len() > HEAD_BYTES_MAX {
                bail!("a head exceeds {HEAD_BYTES_MAX} bytes");
            }
        }
        Ok(true)
    }

    /// As [`Self::hear`], for an answer, which has to be 200.
    pub(crate) fn hear_success(
        &mut self,
        socket: &Socket,
        header: &str,
    ) -> anyhow::Result<Option<Success>> {
        if !self.hear(socket)? {
            return Ok(None);
        }
        let mut slots = HeaderSlots::<HEADERS_MAX>::new();
        match ResponseHead::decode(&self.heard, HeadPolicy::HTTP, &mut slots)? {
            Progress::Complete { value, .. } if value.status == 200 => {
                let value = value.headers.find(header);
                let value = value.map(|value| String::from_utf8_lossy(value).into_owned());
                Ok(Some(Success { value }))
            }
            Progress::Complete { value, .. } => bail!("answered with status {}", value.status),
            Progress::Partial { .. } => bail!("a head does not end where it should"),
        }
    }
}
