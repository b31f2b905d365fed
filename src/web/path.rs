//! The path of a request: RFC 3986 §3.3, taken apart, decoded, and written again.
//!
//! It is a name to be looked up and never a way to be walked. So what could be read in
//! two ways, by a proxy before us or a person behind us, is refused instead of resolved:
//! segments `.` and `..`, and slashes, backslashes and control characters however they are
//! written. Browsers resolve dots before they ask.

use super::WebRefusal;

/// The name of a page or a folder by a request's path: decoded, without the first slash,
/// with the last one if there is one.
pub(super) fn decode(path: &str) -> Result<String, WebRefusal> {
    let malformed = WebRefusal::MalformedPath;
    let path = path.strip_prefix('/').ok_or(malformed)?;
    let mut name = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        let segment = decode_segment(segment).ok_or(malformed)?;
        if index > 0 {
            name.push('/');
        }
        name.push_str(&segment);
    }
    Ok(name)
}

fn decode_segment(written: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, after @ ..] = after else {
            return None;
        };
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    let segment = String::from_utf8(bytes).ok()?;
    // Two slashes are no page's, and no reason to be refused.
    (segment.is_empty() || is_plain_name(&segment)).then_some(segment)
}

/// Whether a request can ask for a file or folder of this name: there is one way to read
/// it.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && c != '/' && c != '\\';
    !matches!(name, "" | "." | "..") && name.chars().all(is_plain)
}

/// Writes a name as the path of a URL.
pub(super) fn push_name(url: &mut String, name: &str) {
    for &byte in name.as_bytes() {
        push(url, byte, is_in_segment(byte) || byte == b'/');
    }
}

/// Writes path and query of a request again, of which what is no part of a URL is encoded.
pub(super) fn push_target(url: &mut String, target: &str) {
    let bytes = target.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let is_encoded = || {
            matches!(bytes[index..], [b'%', high, low, ..]
            if digit(high).is_some() && digit(low).is_some())
        };
        let stays = is_in_segment(byte) || matches!(byte, b'/' | b'?') || is_encoded();
        push(url, byte, stays);
    }
}

fn push(url: &mut String, byte: u8, stays: bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if stays {
        url.push(char::from(byte));
    } else {
        let [high, low] = [byte >> 4, byte & 0xf].map(|digit| DIGITS[usize::from(digit)]);
        url.extend(['%', char::from(high), char::from(low)]);
    }
}

/// `pchar` of RFC 3986 §3.3, without what is encoded.
fn is_in_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

fn digit(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_in_one_way_or_not_at_all() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(decode(path).ok().as_deref(), expected, "{path:?}");
        };
        check("/", Some(""));
        check("/a/b.html", Some("a/b.html"));
        check("/a/", Some("a/"));
        check("/a%20b%2Bc+d", Some("a b+c+d"));
        check("/%25zz", Some("%zz"));
        check("/%252e%252e/x", Some("%2e%2e/x"));
        check("/caf%c3%A9", Some("caf\u{e9}"));
        check("/a;b=c,d:e@f", Some("a;b=c,d:e@f"));
        // No file has such a name, so nothing is found.
        check("//", Some("/"));
        check("//a//b", Some("/a//b"));
        check("/a.", Some("a."));
        check("/...", Some("..."));
        check("/.. ", Some(".. "));
        check("/..a/.b", Some("..a/.b"));
        let long = "x/".repeat(8 << 10);
        check(&format!("/{long}"), Some(&long));
        for path in [
            "",
            "a",
            "*",
            "/.",
            "/..",
            "/../",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/etc/passwd",
            "/%2E%2e/etc/passwd",
            "/.%2e/etc/passwd",
            "/%2e",
            "/a%2f..%2fb",
            "/a%2fb",
            "/%2F",
            "/a\\b",
            "/..\\..\\a",
            "/a%5cb",
            "/a%00b",
            "/a%00",
            "/a%0d%0aX:y",
            "/a%7f",
            "/a%c2%85",
            "/%ff",
            "/%c0%ae%c0%ae/",
            "/%ed%a0%80",
            "/a%",
            "/a%4",
            "/a%4/b",
            "/a%zz",
            "/a%+1",
            "/a%u0041",
        ] {
            check(path, None);
        }
    }

    #[test]
    fn a_name_is_written_as_it_is_read() {
        for name in ["", "a/b/", "a b", "100%", "a?b#c", "caf\u{e9}", "\"<>&'"] {
            let mut url = "/".to_owned();
            push_name(&mut url, name);
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
            assert!(!url.contains(['?', '#', '"', '<']), "{url}");
            assert_eq!(decode(&url).as_deref(), Ok(name));
        }
    }
}
