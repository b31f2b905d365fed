//! `midspan doctor` on hosts that are folders: a few files of `/proc` and `/etc`. What a kernel
//! itself makes of it is tried on one setting, in a network namespace that has its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::relay_process::copy_of_program;
use super::require::{require, require_root};

/// `nobody`, an ordinary user on every Linux.
const ORDINARY_USER: u32 = 65534;

const SYSCTL_D: &str = "etc/sysctl.d/60-midspan.conf";
const LIMITS_D: &str = "etc/security/limits.d/60-midspan.conf";
const PIPES: &str = "proc/sys/fs/pipe-user-pages-soft";
const MIGRATE: &str = "proc/sys/net/ipv4/tcp_migrate_req";
const SOMAXCONN: &str = "proc/sys/net/core/somaxconn";
const RESERVED: &str = "proc/sys/net/ipv4/ip_local_reserved_ports";
const RANGE: &str = "proc/sys/net/ipv4/ip_local_port_range";

/// What a host has that nobody has tuned, in the form in which a kernel shows it.
const UNTUNED: [(&str, &str); 8] = [
    (PIPES, "16384\n"),
    ("proc/sys/fs/pipe-max-size", "1048576\n"),
    (MIGRATE, "0\n"),
    (SOMAXCONN, "128\n"),
    (RESERVED, "\n"),
    (RANGE, "32768\t60999\n"),
    ("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n"),
    (
        "proc/self/limits",
        "\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
Max locked memory         8388608              8388608              bytes
",
    ),
];

struct Host(TempDir);

impl Host {
    /// A host with these files beside the folders in which settings are kept.
    fn new(files: &[(&str, &str)]) -> Self {
        let host = Self(tempfile::tempdir().expect("a temporary folder"));
        for kept in [SYSCTL_D, LIMITS_D] {
            let folder = host.path(kept);
            fs::create_dir_all(folder.parent().expect("a folder")).expect("made");
        }
        for (path, content) in files {
            let path = host.path(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, content).expect("written");
        }
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect("text")
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.path(path), content).expect("written");
    }

    /// All files below, with what is in them.
    fn files(&self) -> Vec<(PathBuf, String)> {
        let mut pending = vec![self.0.path().to_owned()];
        let mut files = Vec::new();
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(&path).expect("a folder");
                pending.extend(entries.map(|entry| entry.expect("an entry").path()));
            } else {
                let content = fs::read_to_string(&path).expect("text");
                files.push((path, content));
            }
        }
        files.sort();
        files
    }

    /// Runs the doctor and returns what it says, on both of its outputs.
    #[track_caller]
    fn doctor(&self, args: &[&str], code: i32) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_midspan"));
        said(Command::new(program), self.0.path(), args, code)
    }

    /// The same without privileges.
    #[track_caller]
    fn doctor_as_ordinary_user(&self, args: &[&str], code: i32) -> String {
        let id = ORDINARY_USER.to_string();
        let program = copy_of_program(self.0.path());
        fs::set_permissions(self.0.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(program);
        said(command, self.0.path(), args, code)
    }
}

#[track_caller]
fn said(mut command: Command, root: &Path, args: &[&str], code: i32) -> String {
    let command = command.arg("doctor").arg("--root").arg(root).args(args);
    let output = command.output().expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("text");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    text
}

/// All of `parts` are said.
#[track_caller]
fn check(text: &str, parts: &[&str]) {
    // Columns are as wide as they have to be.
    let words: Vec<&str> = text.split_whitespace().collect();
    let words = words.join(" ");
    for part in parts {
        assert!(words.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn it_tells_and_changes_nothing() {
    let host = Host::new(&UNTUNED);
    let before = host.files();
    check(
        &host.doctor(&[], 0),
        &[
            "could be better fs.pipe-user-pages-soft 16384 131072 or more",
            "ok fs.pipe-max-size 1048576 1048576 or more",
            "depends on you net.ipv4.ip_local_port_range 32768 60999 1025 65535 or wider",
            "ok net.ipv4.tcp_congestion_control cubic cubic, or any but bbr",
            "not on this kernel kernel.io_uring_disabled - 0",
            "could be better nofile 524288 1048576 or more",
            "ok memlock 8192 8192 or more",
            "fs.pipe-user-pages-soft Why: an unprivileged user",
            "Gained: measured, an ordinary user got",
            "--apply 'net.ipv4.ip_local_port_range=1025 65535'",
            "LimitNOFILE=1048576 in the relay's unit",
            "4 could be better. Next, as root:",
        ],
    );
    assert_eq!(host.files(), before);
}

#[test]
fn room_for_datagrams_is_asked_for_both_ways() {
    let host = Host::new(&[
        ("proc/sys/net/core/rmem_max", "212992\n"),
        ("proc/sys/net/core/wmem_max", "8388608\n"),
    ]);
    check(
        &host.doctor(&[], 0),
        &[
            "could be better net.core.rmem_max 212992 4194304 or more",
            "ok net.core.wmem_max 8388608 4194304 or more",
        ],
    );
    check(
        &host.doctor(&["--apply"], 0),
        &["set net.core.rmem_max 212992 -> 4194304"],
    );
}

#[test]
fn what_is_set_lasts_and_can_be_taken_back() {
    let host = Host::new(&UNTUNED);
    let before = host.files();
    check(
        &host.doctor(&["--apply"], 0),
        &[
            "set fs.pipe-user-pages-soft 16384 -> 131072",
            "set net.ipv4.tcp_migrate_req 0 -> 1",
            "set net.core.somaxconn 128 -> 4096",
            "kept nofile 1048576 from the next login of midspan",
            "--undo",
        ],
    );
    assert_eq!(host.read(PIPES), "131072\n");
    assert_eq!(host.read(MIGRATE), "1\n");
    assert_eq!(host.read(RANGE), "32768\t60999\n", "depends on the host");
    let kept = host.read(SYSCTL_D);
    check(
        &kept,
        &[
            "# Why: the relay asks for a backlog of 4096",
            "# Undo: midspan doctor --undo net.core.somaxconn # Before: 128 \
             net.core.somaxconn = 4096",
        ],
    );
    let settings = kept
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(settings.count(), 3, "{kept}");
    check(&host.read(LIMITS_D), &["midspan hard nofile 1048576"]);
    let mode = fs::metadata(host.path(SYSCTL_D))
        .expect("a file")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o644);
    let folder = fs::read_dir(host.path("etc/sysctl.d")).expect("a folder");
    assert_eq!(folder.count(), 1, "no temporary file is left");

    check(
        &host.doctor(&[], 0),
        &[
            "ok fs.pipe-user-pages-soft 131072 (was 16384)",
            "ok after a login nofile 524288",
            "Nothing to do. What depends on you",
            "To take back what was set",
        ],
    );
    let after = host.files();
    check(&host.doctor(&["--apply"], 0), &["Nothing to do."]);
    assert_eq!(host.files(), after);

    check(
        &host.doctor(&["--undo"], 0),
        &["undone net.core.somaxconn 4096 -> 128", "undone nofile"],
    );
    assert_eq!(host.files(), before);
    check(&host.doctor(&["--undo"], 0), &["Nothing to undo"]);
    assert_eq!(host.files(), before);
}

#[test]
fn the_values_from_before_the_first_time_come_back() {
    let host = Host::new(&UNTUNED);
    let before = host.files();
    host.doctor(&["--apply"], 0);
    host.write(SOMAXCONN, "64\n");
    let text = host.doctor(&["--apply"], 0);
    check(&text, &["set net.core.somaxconn 64 -> 4096"]);
    assert!(!text.contains("pipe-user"), "{text}");
    host.doctor(&["--undo"], 0);
    assert_eq!(host.files(), before);
}

#[test]
fn what_depends_on_the_host_is_set_when_it_is_named() {
    let host = Host::new(&UNTUNED);
    host.write(RESERVED, "9000-9010\n");
    let before = host.files();
    let reserved = "net.ipv4.ip_local_reserved_ports";
    let range = "net.ipv4.ip_local_port_range";
    let wish = format!("{reserved}=443,8443");
    host.doctor(&["--apply", "memlock", range, &wish], 0);
    let kept = host.read(SYSCTL_D);
    let (at_reserved, at_range) = (
        kept.find(reserved),
        kept.find("\nnet.ipv4.ip_local_port_range"),
    );
    assert!(at_reserved < at_range, "ports are reserved first: {kept}");
    assert_eq!(host.read(RESERVED), "9000-9010,443,8443\n");
    assert_eq!(host.read(RANGE), "1025 65535\n");
    assert_eq!(host.read(MIGRATE), "0\n", "not named");
    assert!(!host.path(LIMITS_D).exists(), "enough already");

    check(
        &host.doctor(&["--undo", range, "fs.pipe-max-size"], 0),
        &[
            "undone net.ipv4.ip_local_port_range 1025 65535 -> 32768 60999",
            "ok fs.pipe-max-size nothing to undo",
        ],
    );
    assert_eq!(host.read(RANGE), "32768\t60999\n");
    check(&host.read(SYSCTL_D), &["9000-9010,443,8443"]);
    host.doctor(&["--undo"], 0);
    assert_eq!(host.files(), before);
}

#[test]
fn a_host_that_has_more_keeps_it() {
    let host = Host::new(&UNTUNED);
    host.write(PIPES, "262144\n");
    host.write(SOMAXCONN, "65535\n");
    host.write(MIGRATE, "1\n");
    host.write(RANGE, "500\t60999\n");
    let range = "net.ipv4.ip_local_port_range";
    host.doctor(&["--apply", "net.core.somaxconn", range], 0);
    assert_eq!(host.read(RANGE), "500 65535\n");
    host.doctor(&["--apply"], 0);
    assert_eq!(host.read(PIPES), "262144\n");
    assert_eq!(host.read(SOMAXCONN), "65535\n");
}

#[test]
fn what_somebody_else_has_set_since_stays() {
    let host = Host::new(&UNTUNED);
    host.doctor(&["--apply"], 0);
    host.write(SOMAXCONN, "8192\n");
    check(
        &host.doctor(&["--undo"], 0),
        &[
            "left net.core.somaxconn 8192 is somebody else's since; it was 128 before",
            "undone net.ipv4.tcp_migrate_req 1 -> 0",
        ],
    );
    assert_eq!(host.read(SOMAXCONN), "8192\n");
    assert!(!host.path(SYSCTL_D).exists());
}

#[test]
fn a_value_that_is_none_is_left_alone() {
    let host = Host::new(&UNTUNED);
    host.write(SOMAXCONN, "many\n");
    fs::remove_file(host.path(PIPES)).expect("removed");
    fs::create_dir(host.path(PIPES)).expect("something else");
    check(
        &host.doctor(&[], 0),
        &[
            "unclear fs.pipe-user-pages-soft - 131072 or more",
            "tcp_migrate_req 0 1",
            "unclear net.core.somaxconn many 4096 or more",
            "somaxconn: what it has is no value of this setting",
            "2 could be better",
        ],
    );
    host.doctor(&["--apply"], 0);
    assert_eq!(host.read(SOMAXCONN), "many\n");
    assert_eq!(host.read(MIGRATE), "1\n");
    // Who names it has seen it.
    host.doctor(&["--apply", "net.core.somaxconn"], 0);
    assert_eq!(host.read(SOMAXCONN), "4096\n");
    host.doctor(&["--undo"], 0);
    assert_eq!(host.read(SOMAXCONN), "many\n");
}

#[test]
fn what_cannot_be_set_is_said_and_nothing_else_suffers() {
    if !require_root() || require("setpriv").is_none() {
        return;
    }
    let host = Host::new(&UNTUNED);
    let next = "next: run it as root";
    check(
        &host.doctor_as_ordinary_user(&["--apply"], 1),
        &["60-midspan.conf: Permission denied", next],
    );
    assert_eq!(
        host.read(MIGRATE),
        "0\n",
        "nothing is set that would not last"
    );

    let theirs = Some(ORDINARY_USER);
    for path in [MIGRATE, SOMAXCONN, "etc/sysctl.d", "etc/security/limits.d"] {
        chown(host.path(path), theirs, theirs).expect("root gives away");
    }
    check(
        &host.doctor_as_ordinary_user(&["--apply"], 1),
        &[
            "set net.ipv4.tcp_migrate_req 0 -> 1",
            "set net.core.somaxconn 128 -> 4096",
            "kept nofile",
            "error: cannot set fs.pipe-user-pages-soft to \"131072\": Permission denied",
            next,
        ],
    );
    let kept = host.read(SYSCTL_D);
    assert!(
        !kept.contains("pipe-user"),
        "it would fail at each boot: {kept}"
    );

    // The same on the way back, where it can be tried again.
    chown(host.path(SOMAXCONN), Some(0), Some(0)).expect("root takes back");
    check(
        &host.doctor_as_ordinary_user(&["--undo"], 1),
        &[
            "undone net.ipv4.tcp_migrate_req 1 -> 0",
            "error: cannot set net.core.somaxconn to \"128\": Permission denied",
            next,
        ],
    );
    check(
        &host.read(SYSCTL_D),
        &["# Before: 128 net.core.somaxconn = 4096"],
    );
    host.doctor(&["--undo"], 0);
    assert_eq!(host.read(SOMAXCONN), "128\n");
    assert!(!host.path(SYSCTL_D).exists());
}

#[test]
fn an_image_gets_files_alone() {
    let host = Host::new(&[]);
    check(
        &host.doctor(&[], 0),
        &["could be better net.core.somaxconn - 4096 or more"],
    );
    check(
        &host.doctor(&["--apply"], 0),
        &["kept net.core.somaxconn 4096 from the next boot"],
    );
    assert_eq!(host.files().len(), 2);
    assert!(!host.read(SYSCTL_D).contains("# Before"));
    check(
        &host.doctor(&[], 0),
        &["ok after a boot net.core.somaxconn", "Nothing to do."],
    );
    host.doctor(&["--undo"], 0);
    assert_eq!(host.files(), []);
}

#[test]
fn a_file_of_somebody_else_stays() {
    let host = Host::new(&UNTUNED);
    host.write(SYSCTL_D, "net.core.somaxconn = 1024\n");
    let before = host.files();
    let complaint = "60-midspan.conf:1: this file is not of `midspan doctor`";
    check(
        &host.doctor(&[], 0),
        &["Not looked at", complaint, "4 could be better"],
    );
    for act in ["--apply", "--undo"] {
        check(
            &host.doctor(&[act], 1),
            &[complaint, "next: move what is not of"],
        );
    }
    assert_eq!(host.files(), before);
}

#[test]
fn a_folder_that_is_missing_is_named() {
    let host = Host::new(&UNTUNED);
    fs::remove_dir(host.path("etc/sysctl.d")).expect("removed");
    let text = host.doctor(&["--apply"], 1);
    check(&text, &["next: make the directory", "etc/sysctl.d"]);
    assert_eq!(host.read(MIGRATE), "0\n");
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let host = Host::new(&UNTUNED);
    fs::remove_dir(host.path("etc/sysctl.d")).expect("removed");
    fs::create_dir(host.path("elsewhere")).expect("made");
    symlink("/elsewhere", host.path("etc/sysctl.d")).expect("a link");
    host.doctor(&["--apply"], 0);
    check(
        &host.read("elsewhere/60-midspan.conf"),
        &["tcp_migrate_req = 1"],
    );
}

#[test]
fn wishes_that_are_none_are_usage() {
    let host = Host::new(&UNTUNED);
    let before = host.files();
    for (args, part) in [
        (
            ["--apply", "net.core.somax"],
            "unknown setting \"net.core.somax\"",
        ),
        (
            ["--undo", "net.core.somax"],
            "unknown setting \"net.core.somax\"",
        ),
        (
            ["--apply", "nofile=many"],
            "nofile: \"many\" is not a number",
        ),
        (["--apply", "--undo"], "cannot be used with"),
    ] {
        check(&host.doctor(&args, 2), &[part]);
    }
    let text = host.doctor(&["--apply", "kernel.io_uring_disabled"], 1);
    check(
        &text,
        &["this kernel has no kernel.io_uring_disabled", "next: "],
    );
    let nowhere = host.path("nowhere");
    let nowhere = nowhere.to_str().expect("text");
    let output = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(["doctor", "--root", nowhere])
        .output();
    assert_eq!(output.expect("the program runs").status.code(), Some(2));
    assert_eq!(host.files(), before);
}

#[test]
fn this_host_is_told_whether_a_relay_can_run() {
    let doctor = |wrapper: &[&str], code: i32| {
        let words = [wrapper, &[env!("CARGO_BIN_EXE_midspan"), "doctor"]].concat();
        let output = Command::new(words[0]).args(&words[1..]).output();
        let output = output.expect("the program runs");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        assert_eq!(output.status.code(), Some(code), "{text}");
        text
    };
    check(
        &doctor(&[], 0),
        &["A relay can run here: Linux ", "fs.pipe-user-pages-soft"],
    );
    if require("prlimit").is_some() {
        check(
            &doctor(&["prlimit", "--nofile=32:32"], 1),
            &[
                "No relay can run here: the last lines say why",
                "could be better nofile 32 1048576 or more",
                "only 32 descriptors are allowed",
                "next step",
            ],
        );
    }
}

/// The only setting that is touched is one that a network namespace has for itself.
#[test]
fn a_kernel_takes_what_is_set_and_taken_back() {
    if !require_root() || require("unshare").is_none() {
        return;
    }
    let host = Host::new(&[("proc/nothing", "")]);
    let script = "
        set -eu
        root=$1
        mount --bind /proc \"$root/proc\"
        doctor() { \"$0\" doctor --root \"$root\" \"$@\" >/dev/null; }
        value() { cat /proc/sys/net/ipv4/tcp_migrate_req; }
        value
        doctor --apply net.ipv4.tcp_migrate_req
        value
        doctor --apply net.ipv4.tcp_migrate_req=2 || echo \"exit status $?\"
        value
        doctor --undo
        value
    ";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script])
        .arg(env!("CARGO_BIN_EXE_midspan"))
        .arg(host.0.path())
        .output()
        .expect("unshare runs");
    let complaints = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{complaints}");
    let values = String::from_utf8(output.stdout).expect("text");
    assert_eq!(values, "0\n1\nexit status 1\n1\n0\n", "{complaints}");
    check(
        &complaints,
        &[
            "cannot set net.ipv4.tcp_migrate_req to \"2\": Invalid argument",
            "next: find a value that this kernel takes",
        ],
    );
    assert!(!host.path(SYSCTL_D).exists(), "what was set was taken back");
}
