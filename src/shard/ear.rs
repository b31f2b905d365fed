//! Listens to acceptors whose bytes are wrapped in something, while they wait: their
//! pings are to be answered, and their Close is to be noticed.

use rustix::io::Errno;

use crate::protocol::websocket::CloseCode;
use crate::relay::codec::{Codec, Heard, Life, Workshop};
use crate::relay::keepalive::PingSettings;
use crate::runtime::socket::Socket;

/// What acceptors with a codec are heard with: one for a whole shard.
#[derive(Debug)]
pub struct Ear {
    workshop: Workshop,
}

/// Bytes that are taken in for a leg that waits, over TLS up to the end of a record
/// more. What it sends beyond that stays with the kernel until it is joined, its
/// pings and its Close with it.
pub(super) const PREFIX_BYTES_MAX: usize = 4 << 10;

/// Reads of one leg before others have their turn.
const READS_MAX: u8 = 4;

/// Whether somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    Still,
    /// Still, and has more to say.
    AndTalks,
    NoMore,
}

impl Default for Ear {
    fn default() -> Self {
        Self {
            workshop: Workshop::new(PREFIX_BYTES_MAX),
        }
    }
}

impl Ear {
    /// Takes in what has come from a leg, answers what asks for an answer, and says
    /// whether the leg still waits. One that has ended its stream behind bytes that
    /// are still to be delivered does.
    pub fn listen(&mut self, socket: &Socket, codec: &mut Codec, prefix: &mut Vec<u8>) -> Waits {
        let mut reads_left = READS_MAX;
        loop {
            let room = PREFIX_BYTES_MAX.saturating_sub(prefix.len());
            if room == 0 || codec.heard() != Heard::Open || reads_left == 0 {
                break;
            }
            reads_left -= 1;
            let landing = self.workshop.landing(Some(codec), room);
            let heard = match socket.recv(landing) {
                Ok(0) => codec.end_of_input(),
                Ok(count) => {
                    let heard = self.workshop.decode(Some(codec), count);
                    self.workshop.keep(codec, prefix);
                    heard
                }
                Err(Errno::AGAIN) => break,
                Err(_) => return Waits::NoMore,
            };
            if let Err(error) = heard {
                self.bid_farewell(socket, codec, error.close_code());
                return Waits::NoMore;
            }
        }
        let is_over = codec.heard() != Heard::Open && prefix.is_empty();
        let is_heard = self.say_words(socket, codec, is_over);
        match is_over || !is_heard {
            true => Waits::NoMore,
            false if reads_left == 0 => Waits::AndTalks,
            false => Waits::Still,
        }
    }

    /// Says what the codec has to say, and with `is_end` that nothing follows; false
    /// when the leg does not take it.
    pub fn say_words(&mut self, socket: &Socket, codec: &mut Codec, is_end: bool) -> bool {
        let is_said = self.workshop.take_words(codec, is_end);
        let words = self.workshop.wire();
        // Nobody whose few words find no room reads at all.
        is_said.is_ok() && (words.is_empty() || socket.send(words) == Ok(words.len()))
    }

    /// Looks for a sign of life, and asks for one; says whether the leg still waits.
    pub fn look(&mut self, socket: &Socket, codec: &mut Codec, ping: PingSettings) -> Waits {
        match self.workshop.look_for_life(codec, ping) {
            Life::Seen => Waits::Still,
            Life::Asked if self.say_words(socket, codec, false) => Waits::Still,
            Life::Asked | Life::Gone => Waits::NoMore,
        }
    }

    /// Says the last words to a leg.
    pub fn bid_farewell(&mut self, socket: &Socket, codec: &mut Codec, code: CloseCode) {
        self.workshop.take_farewell(codec, code);
        let _ = socket.send(self.workshop.wire());
    }
}
