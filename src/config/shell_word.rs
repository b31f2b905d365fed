//! Words of a shell, for advice that is to be pasted: POSIX *Shell Command Language*, "Quoting".

/// `word` as one word of a shell: as it is, where nothing in it is the shell's.
#[must_use]
pub fn quoted(word: &str) -> String {
    // A tilde is the shell's where a word begins, and brackets where a file is called so: addresses
    // of IPv6 are better read without quotes.
    let is_plain = |c: char| c.is_alphanumeric() || "._-/:+@,=%[]".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_it_back() {
        for (word, expected) in [
            ("jet+tls://[::1]:443", "jet+tls://[::1]:443"),
            ("/etc/midspan/jproxy/A0.dat", "/etc/midspan/jproxy/A0.dat"),
            ("жук", "жук"),
            ("jet+tls://a:1?pin=ab", "'jet+tls://a:1?pin=ab'"),
            ("a b", "'a b'"),
            ("~", "'~'"),
            ("$HOME;`x`", "'$HOME;`x`'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
            let script = format!("printf %s {expected}");
            let output = Command::new("sh").args(["-c", &script]).output();
            assert_eq!(output.expect("a shell").stdout, word.as_bytes(), "{word}");
        }
    }
}
