//! What every `tls::Session` owes to its peer's bytes, whichever they are.

use midspan::tls::{SEALED_BYTES_MIN, SealError, Session, Wire};
use rustls::Error;

/// Bytes that are asked for at a time, as the relay does.
const ASKED_BYTES: usize = 64 << 10;

/// What a session may have to say to a peer that does not read it: a flight of the
/// handshake, and a few alerts.
const WORDS_BYTES_MAX: usize = 4 << 10;

/// About as many pieces something long comes in.
const PIECES_MAX: usize = 2 << 10;

/// What came of all that a peer sent.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) plain: Vec<u8>,
    pub(crate) end: End,
}

#[derive(Debug, PartialEq)]
pub(crate) enum End {
    Open {
        is_handshaking: bool,
        may_end_here: bool,
    },
    Closed,
    Failed(Error),
}

/// Whether the session has data to send while it listens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Talks {
    Never,
    AtEveryPiece,
}

/// Has a session hear what a peer sends: at once, a byte at a time, and in pieces of
/// `step` bytes while it talks. `begin` gives another session for each, and what is
/// sent to it.
pub(crate) fn check(step: usize, mut begin: impl FnMut() -> (Session, Vec<u8>)) -> Heard {
    let (mut session, wire) = begin();
    let (whole, _) = listen(&mut session, &wire, usize::MAX, Talks::Never);

    // What is cut is copied with every piece: of much that comes, no single bytes.
    let coarse = wire.len() / PIECES_MAX;
    let (mut session, wire) = begin();
    let (dribbled, good) = listen(&mut session, &wire, 1 + coarse, Talks::Never);
    assert_same(&dribbled, &whole);

    let (mut session, wire) = begin();
    let (stepped, _) = listen(&mut session, &wire, step + coarse, Talks::AtEveryPiece);
    assert_same(&stepped, &whole);

    if matches!(whole.end, End::Failed(_)) {
        // What is not complete is no error.
        let (mut session, wire) = begin();
        let (before, _) = listen(&mut session, &wire[..good], usize::MAX, Talks::Never);
        assert!(matches!(before.end, End::Open { .. }), "{before:?}");
        assert_eq!(before.plain, dribbled.plain);
    }
    whole
}

/// In pieces and at once it is the same; of what failed, the bytes before may be lost.
fn assert_same(pieces: &Heard, whole: &Heard) {
    assert_eq!(pieces.end, whole.end);
    match whole.end {
        End::Failed(_) => assert!(pieces.plain.starts_with(&whole.plain)),
        _ => assert_eq!(pieces.plain, whole.plain),
    }
}

/// Tells how many bytes it took without an error, too.
fn listen(session: &mut Session, wire: &[u8], piece_bytes: usize, talks: Talks) -> (Heard, usize) {
    let mut sealed = vec![0; SEALED_BYTES_MIN + ASKED_BYTES];
    let mut opened = vec![0; sealed.len()];
    let (mut plain, mut fed) = (Vec::new(), 0);
    while fed < wire.len() {
        let landing = session.lead_in(&mut sealed, ASKED_BYTES);
        assert!(landing.start < SEALED_BYTES_MIN && !landing.is_empty());
        let count = landing.len().min(piece_bytes).min(wire.len() - fed);
        let end = landing.start + count;
        sealed[landing.start..end].copy_from_slice(&wire[fed..fed + count]);
        fed += count;
        match session.open(&mut sealed[..end], &mut opened) {
            Ok(outcome) => {
                plain.extend_from_slice(&opened[..outcome.bytes]);
                assert_eq!(outcome.is_end, session.has_ended());
                if outcome.is_end {
                    break;
                }
            }
            Err(error) => {
                assert_latched(session);
                let end = End::Failed(error);
                return (Heard { plain, end }, fed - count);
            }
        }
        if talks == Talks::AtEveryPiece {
            // It never closes: of a side that has, rustls asserts in debug builds that no
            // alert follows, and a fuzz build is one.
            let sealed = session.seal(b"data", &mut Wire::default());
            assert!(sealed.is_ok() || session.is_handshaking());
        }
    }
    assert!(take_words(session) <= WORDS_BYTES_MAX);
    let end = match session.has_ended() {
        true => End::Closed,
        false => End::Open {
            is_handshaking: session.is_handshaking(),
            may_end_here: session.may_end_here(),
        },
    };
    (Heard { plain, end }, fed)
}

/// What has failed has an alert at most, and then stays as it is.
fn assert_latched(session: &mut Session) {
    assert!(take_words(session) <= WORDS_BYTES_MAX);
    let mut wire = Wire::default();
    for sealed in [&mut [][..], &mut [23, 3, 3, 0, 1, 0]] {
        assert!(session.open(sealed, &mut [0; 8]).is_err());
    }
    assert_eq!(session.seal(b"data", &mut wire), Err(SealError::NotOpen));
    assert_eq!(session.close(&mut wire), Ok(()));
    assert!(wire.as_bytes().is_empty() && !session.has_words());
}

fn take_words(session: &mut Session) -> usize {
    let mut wire = Wire::default();
    session.take_words(&mut wire);
    wire.as_bytes().len()
}
