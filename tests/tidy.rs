//! The rules of this repository that the compiler does not enforce: which room may name which,
//! where `unsafe` and the ring may appear, and what keeps files readable.
//!
//! It reads paths and words with each line's strings and comments left out; it is not a parser, and
//! a module must not carry the name of a room above its own. `tidy.txt` lists texts with the
//! complaint that each must bring.

use std::fs;
use std::path::Path;

/// From the kernel upwards: a room may name those of a lower rank. `tls` and `quic` are neighbours.
const CHAIN: [&[&str]; 9] = [
    &["runtime"],
    &["tls", "quic"],
    &["relay"],
    &["session"],
    &["shard"],
    &["admin"],
    &["agent"],
    &["cli"],
    &["main", "lib"],
];
/// Beside the chain: they name none of it, and `runtime` names none of them.
const PURE: [&str; 6] = [
    "protocol",
    "association",
    "access",
    "config",
    "tuning",
    "web",
];
/// Below everything: `time` and `slab` name nothing, `metrics` only `time`.
const GROUND: [&str; 3] = ["time", "slab", "metrics"];
/// A protocol core builds on others only as listed here.
const CORES: [(&str, &[&str]); 10] = [
    ("proxy_protocol", &[]),
    ("http_head", &[]),
    ("websocket", &["http_head"]),
    ("socks5", &[]),
    ("http_proxy", &["http_head", "socks5"]),
    ("jet", &["http_head"]),
    ("websocks", &["http_head", "websocket", "socks5"]),
    ("jproxy", &["socks5"]),
    ("ptth_http", &["http_head"]),
    ("ptth_quic", &[]),
];
/// Names that say nothing and so collect everything.
const VAGUE: [&str; 5] = ["utils", "helpers", "common", "shared", "misc"];
/// As rustfmt's; strings do not count, since a message is easier to search for in one piece.
const COLUMNS_MAX: usize = 100;
/// At 600 lines ask which two ideas a file holds, at 700 it is two files.
const LINES_MAX: usize = 700;

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "loadgen", "tests", "benches", "fuzz"];
    let mut pending: Vec<_> = folders.map(|folder| root.join(folder)).into();
    let (mut files_count, mut complaints) = (0, Vec::new());
    while let Some(path) = pending.pop() {
        if path.is_dir() && !path.ends_with("target") {
            let entries = fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files_count += 1;
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            complaints.extend(check(name, &fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(files_count > 10, "only {files_count} files in {root:?}");
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn wrong_texts_are_refused() {
    for case in include_str!("tidy.txt")
        .lines()
        .filter(|case| !case.starts_with('#'))
    {
        let [path, text, expected] = case.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("not `path | text | complaint`: {case}");
        };
        let complaints = check(path, &text.replace("\\n", "\n")).join(" and ");
        assert_eq!(complaints.trim_start_matches(path), expected, "{case}");
    }
    let complaints = check("src/relay/copy.rs", &"a".repeat(101));
    assert_eq!(complaints, ["src/relay/copy.rs:1: more than 100 columns"]);
    let complaints = check("src/relay/copy.rs", &"\n".repeat(701));
    assert_eq!(complaints, ["src/relay/copy.rs:701: more than 700 lines"]);
}

/// What is wrong with the file at `path`, counted from the repository's root.
fn check(path: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let room = if parts[0] == "src" { parts[1] } else { "" };
    let mut found = Vec::new();

    for (index, line) in text.lines().enumerate() {
        if unquoted(line).chars().count() > COLUMNS_MAX {
            found.push((index + 1, format!("more than {COLUMNS_MAX} columns")));
        }
    }
    if text.lines().count() > LINES_MAX {
        found.push((LINES_MAX + 1, format!("more than {LINES_MAX} lines")));
    }
    for word in [concat!("TO", "DO"), concat!("FIX", "ME")] {
        let todo = |(line, _, _)| (line, format!("{word}: do it, or say that it is absent"));
        found.extend(words(text, word).map(todo));
    }
    if let Some(vague) = parts.iter().find(|part| VAGUE.contains(part)) {
        found.push((1, format!("{vague} does not say what it holds")));
    }

    let code = text.lines().map(code_of).collect::<Vec<_>>().join("\n");
    if room != "runtime" {
        for (line, ..) in words(&code, "unsafe").chain(words(&code, "unsafe_code")) {
            found.push((line, "unsafe code outside runtime/".to_owned()));
        }
        for name in ["glommio", "io_uring"] {
            for (line, before, after) in words(&code, name) {
                if before.ends_with("use ") || after.starts_with("::") {
                    found.push((line, format!("{name} named outside runtime/")));
                }
            }
        }
    }
    if !room.is_empty() {
        found.extend(check_room(room, &code));
    }
    if room == "protocol" && parts.len() > 2 {
        found.extend(check_core(parts[2], &code));
    }
    let complaint = |(line, what)| format!("{path}:{line}: {what}");
    found.into_iter().map(complaint).collect()
}

fn check_room(room: &str, code: &str) -> Vec<(usize, String)> {
    let rank = |room: &str| CHAIN.iter().position(|rooms| rooms.contains(&room));
    let is_pure = |room: &str| PURE.contains(&room);
    let is_ground = |room: &str| GROUND.contains(&room);
    if rank(room).is_none() && !is_pure(room) && !is_ground(room) {
        return vec![(1, format!("room {room} has no place in the order"))];
    }
    let may_name = |target: &str| match (rank(room), rank(target)) {
        _ if room == target || target == "time" => true,
        (Some(room), Some(target)) => room > target,
        (None, Some(_)) => false,
        (_, None) if target == "metrics" => room != "time",
        (_, None) if is_pure(target) => room != "runtime" && !is_ground(room),
        (_, None) => true, // A macro or an item of lib.rs.
    };
    let mut targets = targets(code, &["crate::", "super::"]);
    targets.retain(|(_, target)| !may_name(target));
    let complaint = |(line, target)| (line, format!("{room} may not name {target}"));
    targets.into_iter().map(complaint).collect()
}

fn check_core(core: &str, code: &str) -> Vec<(usize, String)> {
    let below = |core: &str| {
        CORES
            .iter()
            .find(|(name, _)| *name == core)
            .map(|(_, below)| *below)
    };
    let Some(allowed) = below(core) else {
        return Vec::new(); // Not a core: detect.rs, outcome.rs.
    };
    let mut targets = targets(code, &["crate::protocol::", "super::"]);
    targets.retain(|(_, target)| {
        *target != core && below(target).is_some() && !allowed.contains(target)
    });
    let complaint = |(line, target)| (line, format!("core {core} may not name core {target}"));
    targets.into_iter().map(complaint).collect()
}

/// The segments that follow one of `prefixes`, those of a `{group}` too, with their lines.
fn targets<'a>(code: &'a str, prefixes: &[&str]) -> Vec<(usize, &'a str)> {
    let mut targets = Vec::new();
    let starts = prefixes.iter().flat_map(|prefix| words(code, prefix));
    for (line, _, rest) in starts {
        let (mut depth, mut expects_segment) = (0, true);
        for (at, c) in rest.char_indices() {
            if expects_segment && is_word(c) {
                let segment = rest[at..].split(|c| !is_word(c)).next();
                targets.push((line, segment.unwrap_or_default()));
            }
            depth += i32::from(c == '{') - i32::from(c == '}');
            expects_segment = match c {
                '{' | ',' => depth == 1,
                _ => expects_segment && c.is_whitespace(),
            };
            if depth == 0 && !expects_segment {
                break;
            }
        }
    }
    targets
}

/// Where `word`, or a path's start, stands by itself: its line, what is before it and what after.
fn words<'a>(text: &'a str, word: &str) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
    text.match_indices(word).filter_map(|(at, word)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let goes_on = word.ends_with(is_word) && after.starts_with(is_word);
        let alone = !goes_on && !before.ends_with(is_word);
        alone.then(|| (before.matches('\n').count() + 1, before, after))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `line` without its comment and its strings.
fn code_of(line: &str) -> String {
    unquoted(line)
        .split("//")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// `line` without what stands between quotes.
fn unquoted(line: &str) -> String {
    let escapes = ["\\\\", "\\\"", "'\"'"];
    let line = escapes
        .iter()
        .fold(line.to_owned(), |line, escape| line.replace(escape, ""));
    line.split('"').step_by(2).collect()
}
