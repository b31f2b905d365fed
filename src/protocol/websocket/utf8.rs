//! Whether text is UTF-8, asked piece by piece: RFC 6455 §8.1.

use std::str;

/// What is still open of the last character.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8Check {
    begun: [u8; 4],
    begun_bytes: u8,
}

/// No continuation could make it UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8Check {
    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), NotUtf8> {
        let mut piece = piece;
        // At most three times: no character has more than four bytes.
        while self.begun_bytes > 0 {
            let Some((&byte, rest)) = piece.split_first() else {
                return Ok(());
            };
            piece = rest;
            let length = usize::from(self.begun_bytes);
            self.begun[length] = byte;
            self.begun_bytes += 1;
            match str::from_utf8(&self.begun[..=length]) {
                Ok(_) => self.begun_bytes = 0,
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => {}
            }
        }
        let Err(error) = str::from_utf8(piece) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        let open = &piece[error.valid_up_to()..];
        self.begun[..open.len()].copy_from_slice(open);
        self.begun_bytes = u8::try_from(open.len()).map_err(|_| NotUtf8)?;
        Ok(())
    }

    /// The text is over.
    pub(super) const fn end(self) -> Result<(), NotUtf8> {
        match self.begun_bytes {
            0 => Ok(()),
            _ => Err(NotUtf8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_pieces(pieces: &[&[u8]]) -> Result<(), NotUtf8> {
        let mut check = Utf8Check::default();
        for piece in pieces {
            check.push(piece)?;
        }
        check.end()
    }

    #[test]
    fn agrees_with_the_standard_library_however_the_text_is_cut() {
        let texts: [&[u8]; 14] = [
            b"",
            b"plain",
            "κόσμε".as_bytes(),
            "a\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}z".as_bytes(),
            b"\xce",
            b"\xce\xba\xe1\xbd",
            b"\xc0\x80",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xf0\x80\x80\x80",
            b"ok\xff",
            b"\x80",
            b"\xe1\xbdx",
            b"\xf8\x88\x80\x80\x80",
        ];
        for text in texts {
            let expected = str::from_utf8(text).map(|_| ()).map_err(|_| NotUtf8);
            assert_eq!(check_pieces(&[text]), expected, "{text:x?}");
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            assert_eq!(check_pieces(&bytes), expected, "{text:x?}");
            for cut in 0..text.len() {
                let (first, second) = text.split_at(cut);
                assert_eq!(
                    check_pieces(&[first, second]),
                    expected,
                    "{text:x?} at {cut}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_become_a_character_is_told_at_once() {
        for text in [&b"\xed\xa0"[..], b"\xf4\x90", b"\xe0\x80", b"\xff", b"\xc1"] {
            let mut check = Utf8Check::default();
            let verdict = text.iter().try_for_each(|byte| check.push(&[*byte]));
            assert_eq!(verdict, Err(NotUtf8), "{text:x?}");
        }
    }
}
