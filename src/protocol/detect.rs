//! What a peer speaks, by its first bytes: for a port that serves everything.

use super::jet::SIGNATURE;
use super::jproxy::MAGIC;

/// What the first bytes announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spoken {
    /// A TLS record with a handshake: RFC 8446 §5.1. What is inside has to be asked
    /// again.
    Tls,
    /// The signature of a JET packet: `[JET-PROTO]` 2.2.1.1.
    Jet,
    /// What a client of jProxy begins with: `[JPROXY]`, "Handshake".
    Jproxy,
    /// An HTTP/1.1 request: RFC 9112 §3.
    Http,
}

/// How sure the first bytes make us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// As sure as one can be; the protocol's own decoder says the rest.
    Is(Spoken),
    /// Too few bytes so far.
    Undecided,
    /// Nothing that we speak.
    Unknown,
}

/// Every byte of these has to be there: another protocol may begin the same.
const SIGNATURES: [(Spoken, &[u8]); 3] = [
    (Spoken::Tls, &[0x16, 0x03]),
    (Spoken::Jet, &SIGNATURE),
    (Spoken::Jproxy, &MAGIC),
];

/// Letters of a method and the space behind it, at most. All methods of RFC 9110 are
/// shorter.
const METHOD_BYTES_MAX: usize = 16;

/// Carriage returns and line feeds that are skipped before a request.
const LINE_ENDS_MAX: usize = 4;

/// Looks at the first bytes of a connection, as far as they came.
#[must_use]
pub fn detect(bytes: &[u8]) -> Detection {
    for (spoken, signature) in SIGNATURES {
        if bytes.starts_with(signature) {
            return Detection::Is(spoken);
        }
        if signature.starts_with(bytes) {
            return Detection::Undecided;
        }
    }
    // Empty lines before the request line are to be skipped: RFC 9112 §2.2.
    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = bytes.iter().take_while(|byte| is_line_end(byte)).count();
    if start > LINE_ENDS_MAX {
        return Detection::Unknown;
    }
    let line = &bytes[start..];
    // A method is in capitals, and a space follows it.
    let method = &line[..line.len().min(METHOD_BYTES_MAX)];
    match method.iter().position(|byte| !byte.is_ascii_uppercase()) {
        Some(end) if end > 0 && method[end] == b' ' => Detection::Is(Spoken::Http),
        Some(_) => Detection::Unknown,
        None if method.len() == METHOD_BYTES_MAX => Detection::Unknown,
        None => Detection::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_is_spoken() {
        use Detection::{Is, Undecided, Unknown};
        for (bytes, expected) in [
            (&b""[..], Undecided),
            (b"\x16", Undecided),
            (b"\x16\x03", Is(Spoken::Tls)),
            (b"\x16\x03\x01\x02\0", Is(Spoken::Tls)),
            (b"\x16\x02", Unknown),
            (b"J", Undecided),
            (b"JE", Undecided),
            (b"JET", Undecided),
            (b"JET\0", Is(Spoken::Jet)),
            (b"JET\0\0\x10", Is(Spoken::Jet)),
            (b"JETT", Undecided),
            (b"JEX\0", Unknown),
            (b"j", Undecided),
            (b"jProx", Undecided),
            (b"jProxy", Is(Spoken::Jproxy)),
            (b"jProxy\x03", Is(Spoken::Jproxy)),
            (b"jet", Unknown),
            (b"G", Undecided),
            (b"GET", Undecided),
            (b"GET ", Is(Spoken::Http)),
            (b"GET / HTTP/1.1\r\n", Is(Spoken::Http)),
            (b"\r\n", Undecided),
            (b"\r\nGET ", Is(Spoken::Http)),
            (b"\r\n\r\nGET ", Is(Spoken::Http)),
            (b"\r\n\r\n\r", Unknown),
            (b"\r\n\r\n\rGET ", Unknown),
            (b"ABCDEFGHIJKLMNO ", Is(Spoken::Http)),
            (b"ABCDEFGHIJKLMNOP", Unknown),
            (b" GET", Unknown),
            (b"Get ", Unknown),
            (b"\0", Unknown),
            (b"get", Unknown),
            (b"\x80\x2e\x01", Unknown),
            (b"SSH-2.0-x\r\n", Unknown),
        ] {
            assert_eq!(detect(bytes), expected, "{bytes:?}");
        }
    }
}
