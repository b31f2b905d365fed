//! Words of a shell, for advice that is to be pasted: POSIX *Shell Command Language*, "Quoting".

use std::path::Path;

/// `word` as one word of a shell: as it is, where nothing in it is the shell's.
#[must_use]
pub fn quoted(word: &str) -> String {
    // A tilde is the shell's where a word begins, and brackets wherever they stand: zsh refuses a
    // word in which no file is called so.
    let is_plain = |c: char| c.is_alphanumeric() || "._-/:+@,=%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A path as one word of a shell, and never an option.
#[must_use]
pub fn quoted_path(path: &Path) -> String {
    let shown = path.display();
    match path.as_os_str().as_encoded_bytes().first() {
        Some(b'-') => quoted(&format!("./{shown}")),
        _ => quoted(&shown.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_it_back() {
        for (word, expected) in [
            ("jet+tls://[::1]:443", "'jet+tls://[::1]:443'"),
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

    #[test]
    fn a_path_is_no_option() {
        for (path, expected) in [
            ("-rf", "./-rf"),
            ("- x", "'./- x'"),
            ("a/-rf", "a/-rf"),
            ("/a b", "'/a b'"),
        ] {
            assert_eq!(quoted_path(Path::new(path)), expected);
        }
    }
}
