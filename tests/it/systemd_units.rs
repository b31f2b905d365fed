//! The units in `tuning/`, looked at by systemd itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::require::require;

#[test]
fn systemd_takes_the_units_without_a_complaint() {
    let Some(analyze) = require("systemd-analyze") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut verify = Command::new(analyze);
    verify.arg("verify");
    for name in ["midspan.service", "midspan.socket", "midspan-socks.service"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tuning")
            .join(name);
        let unit = fs::read_to_string(path).expect("text");
        // The program has to be where the unit says.
        let unit = unit.replace("/usr/local/bin/midspan", env!("CARGO_BIN_EXE_midspan"));
        let copy = folder.path().join(name);
        fs::write(&copy, unit).expect("written");
        verify.arg(copy);
    }
    let output = verify.output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}
