//! The program's own exit codes and where it writes, for what ends at once.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use midspan::access::Presented;
use midspan::access::jproxy::{ClientKey, TunnelUser};
use midspan::protocol::jproxy::SessionKey;
use midspan::tls::identity::Identity;

fn midspan(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(args)
        .env_remove("MIDSPAN_LOG")
        .env_remove("MIDSPAN_TICKET")
        .output()
        .expect("the program runs")
}

fn check(args: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = midspan(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    for (written, part) in [(output.stdout, stdout), (output.stderr, stderr)] {
        let text = String::from_utf8(written).expect("text");
        assert!(text.contains(part), "{args:?}: {text}");
        assert!(!part.is_empty() || text.is_empty(), "{args:?}: {text}");
    }
}

#[test]
fn help_is_an_answer() {
    check(
        &["--version"],
        0,
        concat!("midspan ", env!("CARGO_PKG_VERSION")),
        "",
    );
    check(
        &["--help"],
        0,
        "Exit status: 0 done, 1 failed, 2 wrong usage.",
        "",
    );
    for (command, example) in [
        ("relay", "midspan relay --listen 0.0.0.0:8080"),
        ("expose", "midspan expose home --to 127.0.0.1:22"),
        ("forward", "midspan forward 2222 --to jet+tcp://"),
        ("check", "midspan check /etc/midspan.toml"),
        ("doctor", "midspan doctor --apply"),
        ("key", "midspan key signalling --scope create"),
    ] {
        check(&[command, "--help"], 0, example, "");
    }
}

#[test]
fn a_file_is_checked_without_starting_anything() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("relay.toml");
    let file = path.to_str().expect("text");
    let state = folder.path().join("state");
    let text = format!("drain_timeout = \"5s\"\nstate_dir = {state:?}\n");
    std::fs::write(&path, &text).expect("written");
    check(&["check", file], 0, "is valid.", "");
    let printed = midspan(&["check", file]).stdout;
    assert!(!state.exists(), "nothing is made");
    // What it prints is a file that says the same.
    std::fs::write(&path, &printed).expect("written");
    assert_eq!(midspan(&["check", file]).stdout, printed);

    let clients = format!(
        "[[ptth.clients]]\nname = \"alice\"\nsha256 = \"{}\"\nmay = [\"hoem\", \"lab:22\"]\n",
        "A".repeat(43)
    );
    std::fs::write(&path, text + &clients).expect("written");
    for missing in ["hoem", "lab:22"] {
        let note = format!(
            "\n# note: the client \"alice\" of [[ptth.clients]] may reach \"{missing}\", and no \
             server of [[ptth.servers]] is called so\n"
        );
        check(&["check", file], 0, &note, "");
    }

    std::fs::write(&path, "drain_timeuot = \"5s\"\n").expect("written");
    check(&["check", file], 1, "", "did you mean \"drain_timeout\"?");
    check(&["check", "/nonexistent/file"], 1, "", "/nonexistent/file");
    check(&["check"], 2, "", "Usage: midspan check <FILE>");
}

#[test]
fn rules_are_tried_without_an_agent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, list) = (path("rules"), path("list"));
    std::fs::write(&list, "||listed.example\n||other.example^$popup\n").expect("written");
    let rules = format!("# mail\n\ndeny :25\nrelay abp:{list}\ndirect 10.0.0.0/8\n");
    std::fs::write(&file, rules).expect("written");
    let destinations = [
        "a.example:25",
        "WWW.listed.example:80",
        "10.1.2.3:80",
        "[::1]:1",
    ];
    let output = midspan(&[&["check", "--rules", &file], &destinations[..]].concat());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).expect("text"),
        format!(
            "{file} is valid; rules: 3\n  lines of {list}: 1 used, 1 ignored\n\
             a.example:25  deny  {file}:3 (deny *:25)\n\
             www.listed.example:80  relay  {file}:4 (relay abp:{list})\n\
             10.1.2.3:80  direct  {file}:5 (direct 10.0.0.0/8)\n\
             [::1]:1  relay  no rule fits\n"
        )
    );
    check(&["check", "--rules", &file], 0, "valid; rules: 3\n", "");
    check(
        &["check", "--rules", &file, "a"],
        2,
        "",
        "the destination \"a\": ",
    );
    check(&["check", "--rules", &file, "a:0"], 2, "", "1 to 65535");
    check(&["check", "--rules"], 2, "", "a value is required");
    std::fs::write(&file, "relay *\nallow *\n").expect("written");
    let error = format!("the rules {file}: line 2: \"allow\" is no action");
    check(&["check", "--rules", &file], 1, "", &error);
    check(
        &["check", "/x", "--rules", &file],
        2,
        "",
        "cannot be used with",
    );
}

#[test]
fn a_key_is_printed_once_with_what_the_relay_keeps_of_it() {
    let print = || {
        let output = midspan(&["key", "ci", "--scope", "read", "--scope", "create"]);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).expect("text")
    };
    let printed = print();
    assert_ne!(print(), printed, "each is another");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("relay.toml");
    std::fs::write(&path, &printed).expect("written");
    let file = path.to_str().expect("text");
    let part = "scopes = [\"read\", \"create\"]";
    check(&["check", file], 0, part, "");
    check(&["key", "no name"], 2, "", "NAME \"no name\" is not");
    check(
        &["key", "ci", "--scope", "all"],
        2,
        "",
        "invalid value 'all'",
    );
}

#[test]
fn keys_of_forwarded_ports_are_lines_of_one_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("relay.toml");
    let mut text = String::new();
    for arguments in [
        &["key", "home", "--for", "ptth-server"][..],
        &["key", "lab", "--for", "ptth-server"],
        &[
            "key",
            "home",
            "--for",
            "ptth-client",
            "--may",
            "home:22",
            "--may",
            "lab",
        ],
        &["key", "root", "--for", "ptth-client", "--may", "*"],
        &["key", "ops", "--for", "rest"],
    ] {
        let output = midspan(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let error = String::from_utf8(output.stderr).expect("text");
        let whose = format!("The key of \"{}\"", arguments[1]);
        assert!(error.starts_with(&whose), "{error}");
        text += &String::from_utf8(output.stdout).expect("text");
    }
    std::fs::write(&path, &text).expect("written");
    let file = path.to_str().expect("text");
    for part in [
        "[[ptth.servers]]\nname = \"lab\"\n",
        "may = [\"home:22\", \"lab\"]\n",
        "may = [\"*\"]\n",
        "scopes = [\"create\"]\n",
    ] {
        check(&["check", file], 0, part, "");
    }
    for (arguments, error) in [
        (
            &["key", "a/b", "--for", "ptth-server"][..],
            "NAME \"a/b\" is none",
        ),
        (&["key", "a", "--for", "ptth-client"], "--may says what"),
        (&["key", "a", "--may", "home"], "--may is for"),
        (
            &["key", "a", "--for", "ptth-server", "--scope", "read"],
            "--scope is for",
        ),
        (
            &["key", "a", "--for", "ptth-client", "--may", "home:"],
            "invalid value 'home:'",
        ),
        (&["key", "a", "--for", "nobody"], "invalid value 'nobody'"),
    ] {
        check(arguments, 2, "", error);
    }
}

#[test]
fn a_certificate_is_a_private_key_in_a_file_and_is_listed_by_its_public_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("home.pem");
    let file = path.to_str().expect("text");
    let arguments = ["key", "home", "--for", "ptth-server", "--certificate", file];
    let output = midspan(&arguments);
    assert_eq!(output.status.code(), Some(0));
    let pem = std::fs::read_to_string(&path).expect("written");
    let mode = path.metadata().expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let hash = Identity::of_key(&pem).expect("a key").public_key();
    let lines = format!("[[ptth.servers]]\nname = \"home\"\ncertificate_sha256 = \"{hash}\"\n");
    assert_eq!(String::from_utf8(output.stdout).expect("text"), lines);
    let with_key = [&arguments[..], &["--key-file", "k"]].concat();
    check(&with_key, 2, "", "cannot be used with");
    let of_rest = ["key", "ops", "--certificate", "ops.pem"];
    check(
        &of_rest,
        2,
        "",
        "--certificate is for keys --for ptth-server",
    );
    let by_https = [
        "expose",
        "home",
        "--to",
        "127.0.0.1:22",
        "--relay",
        "ptth+https://relay.example",
        "--key-file",
        file,
    ];
    let complaint = "a certificate is for ptth+quic:// alone\n  next: make a key";
    check(&by_https, 2, "", complaint);
}

#[test]
fn a_key_for_tunnels_is_two_files_that_belong_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let users = path("users");
    std::fs::create_dir(&users).expect("a folder");
    let made = |arguments: &[&str], key_file: &str| {
        let arguments = [arguments, &["--key-file", key_file, "--user-dir", &users]].concat();
        let output = midspan(&arguments);
        (
            output.status.code(),
            output.stdout,
            String::from_utf8(output.stderr).expect("text"),
        )
    };
    let listed = || std::fs::read_dir(&users).expect("a folder").count();
    for (count, arguments) in [
        &["key", "jproxy", "alice"][..],
        &["key", "bob", "--for", "jproxy"],
        &["key", "jproxy", "jproxy"],
    ]
    .iter()
    .enumerate()
    {
        let key_file = path(&format!("{count}.key"));
        let (code, stdout, stderr) = made(arguments, &key_file);
        assert_eq!((code, stdout), (Some(0), Vec::new()), "{stderr}");
        let key = std::fs::read(&key_file).expect("written");
        let key = ClientKey::decode(&key).expect("a key");
        let digits: String = key
            .hash()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        let user_file = format!("{users}/{digits}.dat");
        assert!(
            stderr.contains(&key_file) && stderr.contains(&user_file),
            "{stderr}"
        );
        for path in [&key_file, &user_file] {
            let mode = std::fs::metadata(path)
                .expect("a file")
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o600, "{path}");
        }
        let user = std::fs::read(&user_file).expect("written");
        let user = TunnelUser::decode(&format!("{digits}.dat"), &user).expect("a user");
        let session = SessionKey([7; 16]);
        assert_eq!(
            key.decrypt(&user.encrypt(&session).expect("encrypted")),
            session
        );
        assert_eq!(listed(), count + 1);
    }
    // The relay takes all of them.
    let config = path("relay.toml");
    let lines = format!("state_dir = \"/s\"\n[jproxy]\nusers = {users:?}\n");
    std::fs::write(&config, lines).expect("written");
    check(&["check", &config], 0, "[jproxy]", "");

    let key_file = path("another.key");
    let refuse = |arguments: &[&str], key_file: &str, code: i32, complaint: &str| {
        let (got, _, stderr) = made(arguments, key_file);
        assert_eq!(got, Some(code), "{stderr}");
        assert!(stderr.contains(complaint), "{stderr}");
        assert_eq!(listed(), 3);
    };
    let again = &["key", "jproxy", "alice"];
    refuse(again, &key_file, 1, "there is a user \"alice\" already: ");
    let there = path("0.key");
    refuse(
        &["key", "jproxy", "dave"],
        &there,
        1,
        "0.key is there already",
    );
    refuse(
        &["key", "jproxy", "a b"],
        &key_file,
        2,
        "NAME \"a b\" is none",
    );
    refuse(
        &["key", "ops"],
        &key_file,
        2,
        "--user-dir is for keys --for jproxy",
    );
    let scoped = &["key", "a", "--for", "jproxy", "--scope", "read"];
    refuse(scoped, &key_file, 2, "--scope is for keys --for rest");
    assert!(!std::path::Path::new(&key_file).exists());
    let without = ["key", "a", "--for", "jproxy", "--key-file", &key_file];
    check(&without, 2, "", "there is no --user-dir, for the relay's");
    let without = ["key", "jproxy", "a"];
    check(&without, 2, "", "next: midspan key jproxy NAME --key-file");
    check(&["key"], 2, "", "<NAME>");
    let nowhere = [
        "key",
        "jproxy",
        "a",
        "--key-file",
        &key_file,
        "--user-dir",
        "/nonexistent",
    ];
    check(
        &nowhere,
        1,
        "",
        "cannot read the directory /nonexistent: No such file or directory (os error 2)\n  next: \
         make it: mkdir -m 750 /nonexistent; ",
    );
    assert!(!std::path::Path::new(&key_file).exists());
}

#[test]
fn a_key_goes_to_a_file_that_is_new() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("home.key");
    let file = path.to_str().expect("text");
    let arguments = ["key", "home", "--for", "ptth-server", "--key-file", file];
    let output = midspan(&arguments);
    assert_eq!(output.status.code(), Some(0));
    let key = std::fs::read_to_string(&path).expect("written");
    assert!(key.starts_with("midspan_") && key.ends_with('\n'), "{key}");
    assert_eq!(key.lines().count(), 1);
    let mode = path.metadata().expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let told = String::from_utf8(output.stderr).expect("text");
    assert_eq!(
        told,
        format!("The key of \"home\" is in {file}, for whoever is to have it\n")
    );
    let hash = Presented::new(key.trim()).hash();
    let lines = format!("[[ptth.servers]]\nname = \"home\"\nsha256 = \"{hash}\"\n");
    assert_eq!(String::from_utf8(output.stdout).expect("text"), lines);

    check(
        &arguments,
        1,
        "",
        "home.key is there already\n  next: choose another name",
    );
    assert_eq!(std::fs::read_to_string(&path).expect("kept"), key);
    let nowhere = [
        "key",
        "home",
        "--for",
        "ptth-server",
        "--key-file",
        "/nonexistent/key",
    ];
    check(
        &nowhere,
        1,
        "",
        "cannot write the key file /nonexistent/key: No such file or directory (os error 2)\n  \
         next: make the directory that it is to be in, or choose another\n",
    );
    let wrong = folder.path().join("wrong.key");
    let wrong = wrong.to_str().expect("text");
    check(
        &["key", "a/b", "--for", "ptth-server", "--key-file", wrong],
        2,
        "",
        "is none",
    );
    assert!(!std::fs::exists(wrong).expect("a folder"));
}

#[test]
fn what_is_no_key_has_a_next_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("home.key");
    let file = path.to_str().expect("text");
    std::fs::write(&path, "The key of \"home\":\nabc\n").expect("written");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    let relay = "ptth+http://127.0.0.1:1";
    let arguments = [
        "forward",
        "0",
        "--to",
        "home",
        "--relay",
        relay,
        "--key-file",
        file,
    ];
    check(
        &arguments,
        2,
        "",
        "home.key: a key is one word of visible ASCII",
    );
    check(&arguments, 2, "", "\n  next: have it hold the key alone, ");
}

/// What a relay advises about a user's file that is damaged, pasted into a shell.
#[test]
fn advice_about_a_damaged_users_file_can_be_pasted() {
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("jProxy's users");
    std::fs::create_dir(&users).expect("a folder");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_midspan"));
    let paths = std::env::var("PATH").expect("a path");
    let paths = format!("{}:{paths}", program.parent().expect("a folder").display());
    let shell = |script: &str| {
        let output = Command::new("sh")
            .args(["-e", "-c", script])
            .env("PATH", &paths)
            .current_dir(folder.path())
            .output()
            .expect("a shell");
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success(), "{script}: {stderr}");
    };
    // A name that is neither an option's nor a directory's.
    let name = "-a&/lice";
    shell(&format!(
        "midspan key jproxy --key-file alice.dat --user-dir jProxy\\'s\\ users -- '{name}'"
    ));
    let files = || {
        let entries = std::fs::read_dir(&users).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.collect::<Vec<_>>()
    };
    let config = folder.path().join("relay.toml");
    let lines = format!("state_dir = \"/s\"\n[jproxy]\nusers = {users:?}\n");
    std::fs::write(&config, lines).expect("written");
    let config = config.to_str().expect("text");
    let advice = |before: &str, after: &str| {
        let output = midspan(&["check", config]);
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8(output.stderr).expect("text");
        let (_, next) = told.split_once("\n  next: ").expect("a next step");
        let (_, command) = next.split_once(before).expect("a command");
        let (command, _) = command.split_once(after).expect("an end");
        command.to_owned()
    };

    // It was renamed, and then one is damaged behind its name, and within its key.
    let one = &files()[0];
    std::fs::rename(one, users.join(format!("{}.dat", "0".repeat(64)))).expect("renamed");
    shell(&advice("if it was renamed: ", ";"));
    assert_eq!(files(), std::slice::from_ref(one));
    for is_cut in [true, false] {
        let one = &files()[0];
        let mut bytes = std::fs::read(one).expect("read");
        match is_cut {
            true => bytes.truncate(100),
            false => bytes[400] ^= 1,
        }
        std::fs::write(one, bytes).expect("written");
        let command = advice("make another key, and remove the file: ", "; then ");
        let new_key = folder.path().join("new--a&_lice.dat");
        shell(&command);
        assert_ne!(files(), std::slice::from_ref(one));
        assert_eq!(files().len(), 1);
        let key = std::fs::read(&new_key).expect("written");
        ClientKey::decode(&key).expect("a key");
        std::fs::remove_file(new_key).expect("removed");
        assert!(folder.path().join("alice.dat").exists());
    }
    let printed = midspan(&["check", config]);
    assert_eq!(printed.status.code(), Some(0));

    // There is a user of this name.
    let arguments = ["key", "jproxy", "--key-file", "/x", "--user-dir"];
    let of_user = [users.to_str().expect("text"), "--", name];
    let output = midspan(&[&arguments[..], &of_user].concat());
    let told = String::from_utf8(output.stderr).expect("text");
    let (_, command) = told.split_once("good for nothing: ").expect("advice");
    shell(command.split_once("; or ").expect("an end").0);
    assert!(files().is_empty());
}

/// What each command says where `FILE` is not there.
#[test]
fn a_file_that_is_missing_has_a_next_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("missing").display().to_string();
    let key = folder.path().join("key.dat").display().to_string();
    let made = ["key", "jproxy", "a", "--key-file", &key, "--user-dir", "."];
    let output = Command::new(env!("CARGO_BIN_EXE_midspan"))
        .args(made)
        .current_dir(folder.path())
        .output();
    assert_eq!(output.expect("the program runs").status.code(), Some(0));
    let certificate = folder.path().join("certificate.pem");
    let pem = Identity::make_pem("localhost").expect("made");
    std::fs::write(&certificate, pem).expect("written");
    let certificate = certificate.display().to_string();
    let state = folder.path().join("state").display().to_string();
    for (arguments, advice) in [
        (
            "socks 0 --relay jproxy+tls://h --key-file FILE",
            "pass the file that `midspan key jproxy` wrote to its --key-file; ",
        ),
        (
            "forward 0 --to a:1 --relay jproxy+tls://h --key-file FILE",
            "pass the file that `midspan key jproxy` wrote to its --key-file; ",
        ),
        (
            "socks 0 --relay jproxy+tls://h --key-file KEY --relay-ca FILE",
            "pass a file with certificates of authorities, in PEM, as --relay-ca",
        ),
        (
            "socks 0 --relay jproxy+tls://h --key-file KEY --rules FILE",
            "pass the file with the rules, ",
        ),
        (
            "socks 0 --relay jproxy+tls://h --key-file KEY --local-user-file FILE",
            "make it, with a line USER:PASSWORD ",
        ),
        (
            "socks 0 --relay websocks+ws://a@h:1 --password-file FILE",
            "make it, with the password on its one line, ",
        ),
        (
            "forward 0 --to a --relay h --key-file FILE",
            "pass the file that `midspan key NAME --for ptth-server`, or `ptth-client`, wrote",
        ),
        ("forward 0 --to @FILE", "make it, with the ticket"),
        (
            "relay --listen 127.0.0.1:0 --state-dir STATE --tls-certificate CERTIFICATE --tls-key FILE",
            "name the file with the certificate's private key, in PEM: --tls-key, ",
        ),
        (
            "relay --listen 127.0.0.1:0 --state-dir STATE --tls-certificate FILE --tls-key FILE",
            "name a file with the certificate and those of its authorities, ",
        ),
    ] {
        let words = arguments.split(' ').map(|word| match word {
            "@FILE" => format!("@{missing}"),
            "FILE" => missing.clone(),
            "KEY" => key.clone(),
            "CERTIFICATE" => certificate.clone(),
            "STATE" => state.clone(),
            word => word.to_owned(),
        });
        let words: Vec<_> = words.collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        check(&words, 1, "", &format!("{missing}: "));
        check(&words, 1, "", &format!("\n  next: {advice}"));
    }
    // One that is there, and of another kind.
    for (arguments, code, complaint) in [
        (
            &["expose", "a", "--to", "b:1", "--relay", "h"][..],
            2,
            "key.dat: this is a key for tunnels of jProxy, and a relay of PTTH knows nobody by \
             it\n  next: for a relay of jProxy write `midspan socks` or `midspan forward` with ",
        ),
        (
            &["forward", "0", "--to", "b", "--relay", "h"],
            2,
            "key.dat: this is a key for tunnels of jProxy, ",
        ),
    ] {
        let words = [arguments, &["--key-file", &key]].concat();
        check(&words, code, "", complaint);
    }
    let directory = folder.path().to_str().expect("text");
    let words = ["forward", "0", "--to", "b", "--relay", "h", "--key-file"];
    let words = [&words[..], &[directory]].concat();
    check(&words, 1, "", " is a directory");
}

#[test]
fn wrong_usage_is_2() {
    check(&[], 2, "", "Usage: midspan <COMMAND>");
    check(&["relai"], 2, "", "a similar subcommand exists: 'relay'");
    check(
        &["relay", "--cores", "none"],
        2,
        "",
        "neither a number of cores",
    );
    check(
        &["relay", "--listen", "0.0.0.0:0"],
        2,
        "",
        "midspan: error: --listen: 0.0.0.0:0 can be",
    );
    check(
        &["relay", "--listen", "0.0.0.0:0"],
        2,
        "",
        "\n  next: pass --open",
    );
    check(
        &["forward", "2222"],
        2,
        "",
        "midspan: error: no ticket\n  next: pass --to TICKET",
    );
}

#[test]
fn a_failure_is_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("midspan.toml");
    std::fs::write(&file, "lsten = []\n").expect("written");
    let file = file.to_str().expect("text");
    let error =
        format!("midspan: error: {file}:1:1: unknown key \"lsten\" (did you mean \"listen\"?)\n");
    check(&["relay", "--config", file], 1, "", &error);
    check(
        &["relay", "--config", "/nonexistent"],
        1,
        "",
        "next: check the path",
    );
}
