//! Names of users, and the form in which files have them: Java's, which differs from UTF-8 in
//! what is beyond U+FFFF, and in U+0000. *DataInput*, "Modified UTF-8".

/// Characters of the longest name.
pub const NAME_CHARS_MAX: usize = 64;

/// No name of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to {NAME_CHARS_MAX} letters, digits and signs, without spaces, colons, \
     quotation marks and backslashes"
)]
pub struct NameError;

/// Whether a user may be called so: one word of a line in the log, and of a file whose lines
/// begin with names.
pub(super) fn check(name: &str) -> Result<(), NameError> {
    let is_plain =
        |c: char| c.is_alphanumeric() || c.is_ascii_graphic() && !matches!(c, ':' | '"' | '\\');
    let is_short = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
    (is_short && name.chars().all(is_plain))
        .then_some(())
        .ok_or(NameError)
}

/// Reads a name that is in either form.
pub(super) fn decode(bytes: &[u8]) -> Result<String, NameError> {
    let name = match str::from_utf8(bytes) {
        Ok(name) => name.to_owned(),
        Err(_) => from_surrogates(bytes).ok_or(NameError)?,
    };
    check(&name).map(|()| name)
}

/// As Java writes it.
pub(super) fn encode(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    for c in name.chars() {
        let mut units = [0; 2];
        match c.encode_utf16(&mut units) {
            [high, low] => bytes.extend([*high, *low].into_iter().flat_map(of_surrogate)),
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// UTF-8 in which three bytes may be half of a character.
fn from_surrogates(mut bytes: &[u8]) -> Option<String> {
    let mut units = Vec::with_capacity(bytes.len());
    while let Some(first) = bytes.first() {
        let length = match first {
            0x00..0x80 => 1,
            0x80..0xe0 => 2,
            _ => 3,
        };
        let (one, rest) = bytes.split_at_checked(length)?;
        match (str::from_utf8(one), one) {
            (Ok(text), _) => units.extend(text.encode_utf16()),
            (Err(_), [0xed, second @ 0xa0..0xc0, third @ 0x80..0xc0]) => {
                units.push(0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f));
            }
            (Err(_), _) => return None,
        }
        bytes = rest;
    }
    String::from_utf16(&units).ok()
}

/// Half of a character, in three bytes.
fn of_surrogate(unit: u16) -> [u8; 3] {
    let [high, low] = unit.to_be_bytes();
    let second = 0x80 | (high << 2 | low >> 6) & 0x3f;
    [0xe0 | high >> 4, second, 0x80 | low & 0x3f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_java_and_as_others_write_them() {
        for (name, java) in [
            ("alice", &b"alice"[..]),
            ("жук", "жук".as_bytes()),
            ("a€b", "a€b".as_bytes()),
            ("𝐀1", b"\xed\xa0\xb5\xed\xb0\x801"),
        ] {
            assert_eq!(encode(name), java, "{name}");
            let expected = match name {
                // A sign that is not one of ASCII.
                "a€b" => Err(NameError),
                name => Ok(name.to_owned()),
            };
            assert_eq!(decode(java), expected);
            assert_eq!(decode(name.as_bytes()), expected);
        }
        for wrong in [
            &b"\xed\xa0\xb5"[..],
            b"\xed\xb0\x80\xed\xa0\xb5",
            b"\xed\xa0",
            b"a\xc0\x80",
            b"\xff\xff\xff",
            b"\xf0\x9d\x90",
        ] {
            assert_eq!(decode(wrong), Err(NameError), "{wrong:?}");
        }
    }

    #[test]
    fn a_name_is_one_word() {
        let longest = "ж".repeat(NAME_CHARS_MAX);
        for name in ["a", "alice@example.com", "x-1_2", &longest] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        let long = "a".repeat(NAME_CHARS_MAX + 1);
        for name in [
            "",
            "a b",
            "a:b",
            "a\n",
            "\"a\"",
            "a\\",
            "\u{202e}a",
            "a\0",
            &long,
        ] {
            assert_eq!(check(name), Err(NameError), "{name}");
        }
    }
}
