//! Splicing what passes as it is: bodies of which only the lines between long chunks have to
//! be looked at.
//!
//! What was spliced from the source is in a pipe, where nobody sees it. A second pipe gets
//! references to the same pages (`tee(2)`), and of these the chunks' data are dropped and the
//! lines are read:
//!
//! ```text
//!   source ──splice──▶ │ data │ line │ data │ line │ data │ ──splice──▶ destination
//!                          │ tee
//!                          ▼
//!                      │ skip │ read │ skip │ read │ skip │
//! ```
//!
//! All of it is looked at before any of it is sent, as when it is copied. What stands behind
//! the end of a body is not sent, and its pipe is not used again. A sender on this host that
//! lent its pages to the kernel may change them meanwhile: it spoils its own body, and nothing
//! else, as no answer's connection is used again.

use rustix::io::Errno;

use super::codec::{Codec, CodecError, Heard};
use super::direction::ChainKey;
use super::means::Means;
use super::pipe_pool::Second;

/// What is read to find a line: the end of a chunk, a size, and a little more.
const LOOK_BYTES: usize = 32;

/// The least that is dropped unseen: to read less costs no more, and brings the next line.
const SKIP_BYTES_MIN: u64 = 4 << 10;

/// Why what was spliced may not go on.
#[derive(Debug)]
pub(super) enum Stopped {
    /// It is not what the source's protocol allows.
    Broken(CodecError),
    /// It cannot be looked at.
    Unseen(Errno),
}

/// Has the source's `codec` look at what the last pipe of a chain holds; gives how much of
/// that is to be drained.
pub(super) fn look(
    means: &mut Means,
    key: ChainKey,
    second: &mut Second,
    codec: &mut Codec,
) -> Result<u32, Stopped> {
    means.pipes.tee(key, second).map_err(Stopped::Unseen)?;
    let all = second.held_bytes();
    // What follows the end of the body.
    let mut behind = 0;
    while second.held_bytes() > 0 && codec.heard() == Heard::Open {
        let unseen = codec.unseen_bytes();
        if unseen >= SKIP_BYTES_MIN {
            let unseen = u32::try_from(unseen).unwrap_or(u32::MAX);
            let bytes = unseen.min(second.held_bytes());
            let skipped = second.skip(bytes).map_err(Stopped::Unseen)?;
            codec.skip(u64::from(skipped));
            continue;
        }
        // Short chunks are looked at as a whole.
        let room = match codec.comes_in_long_chunks() {
            true => usize::try_from(unseen).unwrap_or(0) + LOOK_BYTES,
            false => means.scratch.len(),
        };
        let seen = second.read(&mut means.scratch[..room]);
        let seen = seen.map_err(Stopped::Unseen)?;
        let taken = codec.look_at(seen).map_err(Stopped::Broken)?;
        behind += u32::try_from(seen.len() - taken).unwrap_or(0);
    }
    behind += second.held_bytes();
    if behind > 0 {
        means.pipes.cut(key, all - behind);
    }
    Ok(all - behind)
}
