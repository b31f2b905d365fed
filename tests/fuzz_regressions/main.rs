//! Replays, target by target, the fuzzers' corpus and every input that once
//! broke one: `tests/fuzz_regressions/<target>/`, one file an input.

use std::io::ErrorKind;
use std::path::Path;
use std::{fs, panic};

#[path = "../../fuzz/harness/mod.rs"]
mod harness;

/// Returns how many inputs the folder holds; none if it does not exist.
fn replay(folder: &str, target: &str) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(target);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return 0,
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("folder entry").path();
        let input = fs::read(&path).expect("input");
        let outcome = panic::catch_unwind(|| harness::run(target, &input));
        assert!(outcome.is_ok(), "{target} breaks on {}", path.display());
        count += 1;
    }
    count
}

#[test]
fn inputs_that_broke_a_decoder_do_so_no_more() {
    for (target, _) in harness::TARGETS {
        replay("tests/fuzz_regressions", target);
    }
}

#[test]
fn the_corpus_finds_nothing() {
    for (target, _) in harness::TARGETS {
        assert_ne!(replay("fuzz/corpus", target), 0, "{target} has no corpus");
    }
}
