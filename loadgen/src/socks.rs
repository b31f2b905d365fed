//! The client's side of SOCKS5: one request, for the generator's own backend.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, bail};
use midspan::protocol::socks5::{Client, Command, Pace, ReplyCode, Request};
use midspan::relay::codec::Workshop;

use crate::exchange::{Dialogue, Exchange};

/// What all near legs ask a proxy for.
#[derive(Clone, Debug)]
pub(crate) struct SocksClient {
    request: Request,
    pace: Pace,
    workshop: Rc<RefCell<Workshop>>,
}

impl SocksClient {
    pub(crate) fn new(backend: SocketAddr, pace: Pace, workshop: Rc<RefCell<Workshop>>) -> Self {
        Self {
            request: Request {
                command: Command::Connect,
                destination: backend.into(),
            },
            pace,
            workshop,
        }
    }

    /// The near leg's exchange.
    pub(crate) fn connect(&self) -> Exchange {
        let dialogue = SocksDialogue::new(&self.request, self.pace);
        Exchange::in_turns(Dialogue::Socks(dialogue), &self.workshop)
    }
}

/// One request on its way to its reply.
#[derive(Debug)]
pub(crate) struct SocksDialogue {
    /// `None` once the reply is there.
    client: Option<Client>,
    output: Vec<u8>,
}

impl SocksDialogue {
    fn new(request: &Request, pace: Pace) -> Self {
        let mut client = Client::new(request, None, pace);
        let output = client.take_output();
        Self {
            client: Some(client),
            output,
        }
    }

    /// What is to be sent now.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    /// All of the output is out.
    pub(crate) fn handle_sent(&mut self) {
        self.output.clear();
    }

    /// Bytes have come; whether the proxy has dialled the backend.
    ///
    /// # Errors
    ///
    /// When it refuses, or says what belongs to no such exchange.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> anyhow::Result<bool> {
        let mut client = self.client.take().context("the exchange is over")?;
        let Some(reply) = client.receive(bytes)? else {
            self.output.extend_from_slice(&client.take_output());
            self.client = Some(client);
            return Ok(false);
        };
        if reply.code != ReplyCode::Succeeded {
            bail!("the proxy answered {:?}", reply.code);
        }
        match client.into_rest().len() {
            0 => Ok(true),
            // The backend is ours and sends nothing before the pair is there.
            count => bail!("{count} bytes came behind a socks5 reply"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUCCEEDED: &[u8] = b"\x05\0\0\x01\x7f\0\0\x01\x23\x29";

    fn dialogue(pace: Pace) -> SocksDialogue {
        let request = Request {
            command: Command::Connect,
            destination: SocketAddr::from(([127, 0, 0, 1], 9001)).into(),
        };
        SocksDialogue::new(&request, pace)
    }

    fn take_output(dialogue: &mut SocksDialogue) -> Vec<u8> {
        let output = dialogue.output().to_vec();
        dialogue.handle_sent();
        output
    }

    #[test]
    fn the_request_waits_for_the_method_unless_told_otherwise() {
        let greeting = b"\x05\x01\0";
        let request = b"\x05\x01\0\x01\x7f\0\0\x01\x23\x29";
        for (pace, first, second) in [
            (Pace::StepByStep, &greeting[..], &request[..]),
            (Pace::AtOnce, &[&greeting[..], request].concat(), b""),
        ] {
            let mut dialogue = dialogue(pace);
            assert_eq!(take_output(&mut dialogue), first);
            assert!(!dialogue.receive(b"\x05\0").unwrap());
            assert_eq!(take_output(&mut dialogue), second);
            for byte in &SUCCEEDED[..9] {
                assert!(!dialogue.receive(&[*byte]).unwrap());
            }
            assert!(dialogue.receive(&SUCCEEDED[9..]).unwrap());
        }
    }

    #[test]
    fn what_is_no_success_is_an_error() {
        let refused = b"\x05\0\x05\x05\0\x01\0\0\0\0\0\0";
        let early = [b"\x05\0", SUCCEEDED, b"hi"].concat();
        for (said, expected) in [
            (
                &b"\x05\xff"[..],
                "the server wants authentication method 255",
            ),
            (b"HTTP/1.1", "version 72 is not 5"),
            (refused, "the proxy answered ConnectionRefused"),
            (&early, "2 bytes came behind a socks5 reply"),
        ] {
            let error = dialogue(Pace::StepByStep).receive(said).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
