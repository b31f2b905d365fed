//! How settings come to be: the command line over the file over the defaults, and what
//! needs more than one value, or a fact about the host, to decide.

use std::path::PathBuf;
use std::time::Duration;

use super::certificates::tls;
use super::file::ConfigFile;
use super::forwarding::forwarding;
use super::jproxy::{JproxySettings, jproxy};
use super::keys::keyring;
use super::limits::{Limits, handshakes_for, spec_of, spill_for, web_for};
use super::listening::{admin, listeners};
use super::quic_settings::quic;
use super::settings::{Flags, HostFacts, JetSettings, LogSettings, RelaySettings, SPIN_US_MAX};
use super::urls::{networks, stun, urls};
use super::web::web;
use super::websocks::{awaiting, egress, users};
use super::{ConfigError, CoreChoice, Instance, Listener, Pinned, Place, Problem};

/// How long a relay that was told to stop waits for its pairs.
const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

impl RelaySettings {
    /// The settings that `flags`, over `file`, over the defaults, come to.
    ///
    /// # Errors
    ///
    /// A value that contradicts another or does not suit this host.
    pub fn resolve(
        flags: &Flags,
        file: Option<&ConfigFile>,
        host: &HostFacts,
    ) -> Result<Self, ConfigError> {
        let written = file.map(ConfigFile::written);
        let log = written.map(|written| &written.log);
        let jet = written.map(|written| &written.jet);

        let listen = listeners(flags, file, host)?;
        let loopback_only = listen.iter().all(|(listener, _)| listener.is_loopback());
        let open = flags.open.or(written.and_then(|w| w.open)).unwrap_or(false);
        let reachable = listen
            .iter()
            .find(|(listener, _)| listener.is_for_anybody());
        if let Some((listener, place)) = reachable
            && !open
        {
            let problem = Problem::NotOpen {
                address: listener.address,
            };
            return Err(ConfigError::new(place.clone(), problem));
        }

        let jproxy = jproxy(file, host.served.as_ref())?;
        for (listener, place) in &listen {
            check_tunnels(*listener, &jproxy)
                .map_err(|problem| ConfigError::new(place.clone(), problem))?;
        }
        let limits = limits(flags, file, host)?;
        Ok(Self {
            listen: listen.into_iter().map(|(listener, _)| listener).collect(),
            open,
            admin: admin(flags, file, host)?,
            proxy_protocol_from: networks(file, |written| &written.proxy_protocol_from)?,
            forwarded_for_from: networks(file, |written| &written.forwarded_for_from)?,
            create_on_accept: flags
                .create_on_accept
                .or(written.and_then(|w| w.create_on_accept))
                .unwrap_or(loopback_only && file.is_none()),
            cores: cores(flags, file, host)?,
            data_plane: flags
                .data_plane
                .or(written.and_then(|w| w.data_plane))
                .unwrap_or_default(),
            drain_timeout: flags
                .drain_timeout
                .or(written.and_then(|w| w.drain_timeout))
                .map_or(DRAIN_TIMEOUT_DEFAULT, |period| period.0),
            spin_us: spin_us(flags, file)?,
            log: LogSettings {
                format: flags
                    .log_format
                    .or(log.and_then(|l| l.format))
                    .unwrap_or_default(),
                level: flags
                    .log_level
                    .or(log.and_then(|l| l.level))
                    .unwrap_or_default(),
            },
            state_dir: state_dir(flags, file, host)?,
            jet: JetSettings {
                v1: flags.jet_v1.or(jet.and_then(|j| j.v1)).unwrap_or_default(),
                instance: instance(flags, file, host)?,
                urls: urls(file)?,
                stun: stun(file)?,
            },
            quic: quic(flags, file)?,
            web: web(file, &limits)?,
            limits,
            keyring: keyring(file)?,
            users: users(file)?,
            awaiting: awaiting(file)?,
            egress: egress(file)?,
            jproxy,
            forwarding: forwarding(file)?,
            tls: tls(
                flags
                    .tls
                    .clone()
                    .map(|files| files.under(&host.current_dir)),
                file,
            )?,
        })
    }
}

/// Whether a listener that is for jProxy alone can be so.
fn check_tunnels(listener: Listener, jproxy: &JproxySettings) -> Result<(), Problem> {
    let Some(Pinned::Jproxy { is_tls, .. }) = listener.only else {
        return Ok(());
    };
    if jproxy.path.is_none() {
        return Err(Problem::NoTunnelUsers { listener });
    }
    match is_tls || listener.is_loopback() || jproxy.insecure {
        true => Ok(()),
        false => Err(Problem::TunnelsInsecure {
            address: listener.address,
        }),
    }
}

fn cores(
    flags: &Flags,
    file: Option<&ConfigFile>,
    host: &HostFacts,
) -> Result<Vec<usize>, ConfigError> {
    let in_file = file.and_then(|file| Some((file, file.written().cores.as_ref()?)));
    let (choice, place) = match (&flags.cores, in_file) {
        (Some(choice), _) => (choice, Place::Flag("--cores")),
        (None, Some((file, choice))) => (choice.get_ref(), file.place(choice)),
        (None, None) => (&CoreChoice::All, Place::Default),
    };
    choice
        .resolve(&host.cores_allowed)
        .map_err(|problem| ConfigError::new(place, problem))
}

fn spin_us(flags: &Flags, file: Option<&ConfigFile>) -> Result<u32, ConfigError> {
    let in_file = file.and_then(|file| Some((file, file.written().spin_us.as_ref()?)));
    let (value, place) = match (flags.spin_us, in_file) {
        (Some(value), _) => (u64::from(value), Place::Flag("--spin-us")),
        (None, Some((file, value))) => (*value.get_ref(), file.place(value)),
        (None, None) => return Ok(0),
    };
    u32::try_from(value)
        .ok()
        .filter(|value| *value <= SPIN_US_MAX)
        .ok_or_else(|| {
            let problem = Problem::OutOfRange {
                value,
                min: 0,
                max: u64::from(SPIN_US_MAX),
            };
            ConfigError::new(place, problem)
        })
}

fn state_dir(
    flags: &Flags,
    file: Option<&ConfigFile>,
    host: &HostFacts,
) -> Result<PathBuf, ConfigError> {
    if let Some(path) = &flags.state_dir {
        return Ok(host.current_dir.join(path));
    }
    let in_file = file.and_then(|file| Some((file, file.written().state_dir.as_ref()?)));
    match in_file {
        Some((_, path)) if path.get_ref().is_absolute() => Ok(path.get_ref().clone()),
        Some((file, path)) => {
            let problem = Problem::RelativePath {
                path: path.get_ref().clone(),
            };
            Err(ConfigError::new(file.place(path), problem))
        }
        None => host
            .state_dir
            .clone()
            .ok_or_else(|| ConfigError::new(Place::Default, Problem::NoStateDir)),
    }
}

fn instance(
    flags: &Flags,
    file: Option<&ConfigFile>,
    host: &HostFacts,
) -> Result<Instance, ConfigError> {
    let in_file = file.and_then(|file| file.written().jet.instance.as_ref());
    match flags.jet_instance.as_ref().or(in_file) {
        Some(instance) => Ok(instance.clone()),
        None => host.hostname.parse().map_err(|_| {
            let problem = Problem::NoInstance {
                hostname: host.hostname.clone(),
            };
            ConfigError::new(Place::Default, problem)
        }),
    }
}

fn limits(
    flags: &Flags,
    file: Option<&ConfigFile>,
    host: &HostFacts,
) -> Result<Limits, ConfigError> {
    let mut limits = Limits::defaults(host.descriptors, host.memory_bytes);
    let mut places: Vec<(&'static str, Place)> = Vec::new();
    if let Some(file) = file {
        for (name, value) in file.written().limits.written() {
            let place = file.place(value);
            limits
                .set(spec_of(name), *value.get_ref())
                .map_err(|problem| ConfigError::new(place.clone(), problem))?;
            places.push((name, place));
        }
    }
    for flag in &flags.limits {
        let place = Place::LimitFlag(flag.spec.name);
        limits
            .set(flag.spec, flag.value)
            .map_err(|problem| ConfigError::new(place.clone(), problem))?;
        places.push((flag.spec.name, place));
    }
    // The last one written holds.
    let place = |name: &str| {
        let written = places.iter().rev().find(|(written, _)| *written == name);
        written.map(|(_, place)| place.clone())
    };

    match place("connections_max") {
        None => limits.connections_max = limits.connections_for(host.descriptors),
        Some(place) => {
            let connections = limits.connections_max;
            let needed = limits.descriptors_needed(connections);
            let descriptors = host.descriptors;
            if needed > descriptors {
                let problem = Problem::ConnectionsOverDescriptors {
                    connections,
                    needed,
                    descriptors,
                };
                return Err(ConfigError::new(place, problem));
            }
        }
    }
    if place("handshakes_max").is_none() {
        limits.handshakes_max = handshakes_for(limits.connections_max);
    }
    if place("spill_bytes_max").is_none() {
        limits.spill_bytes_max = spill_for(limits.memory_bytes_max);
    }
    if place("web_bytes_max").is_none() {
        limits.web_bytes_max = web_for(limits.memory_bytes_max);
    }
    let (connections, memory) = (limits.connections_max, limits.memory_bytes_max);
    for (name, value, other, other_value) in [
        (
            "handshakes_max",
            limits.handshakes_max,
            "connections_max",
            connections,
        ),
        (
            "spill_bytes_max",
            limits.spill_bytes_max,
            "memory_bytes_max",
            memory,
        ),
        (
            "web_bytes_max",
            limits.web_bytes_max,
            "memory_bytes_max",
            memory,
        ),
    ] {
        if let Some(place) = place(name)
            && value > other_value
        {
            let problem = Problem::OverOther {
                value,
                other,
                other_value,
            };
            return Err(ConfigError::new(place, problem));
        }
    }
    let (value, other_value) = (limits.handshake_timeout_s, limits.association_ttl_s);
    if let Some(place) = place("handshake_timeout_s")
        && value > other_value
    {
        let problem = Problem::OverOther {
            value,
            other: "association_ttl_s",
            other_value,
        };
        return Err(ConfigError::new(place, problem));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::DataPlane;
    use super::super::settings::LISTEN_DEFAULT;
    use super::*;

    fn file(text: &str) -> ConfigFile {
        ConfigFile::parse(Path::new("midspan.toml"), text.to_owned()).unwrap()
    }

    fn check_error(flags: &Flags, text: Option<&str>, expected: &str) {
        let file = text.map(file);
        let error =
            RelaySettings::resolve(flags, file.as_ref(), &HostFacts::example()).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.is_usage(), expected.starts_with("--"));
    }

    #[test]
    fn without_anything_it_is_a_relay_on_loopback() {
        let settings =
            RelaySettings::resolve(&Flags::default(), None, &HostFacts::example()).unwrap();
        assert_eq!(settings.listen, [LISTEN_DEFAULT]);
        assert!(settings.create_on_accept && !settings.open && settings.is_loopback_only());
        assert_eq!(settings.cores, [0, 1]);
        assert_eq!(settings.drain_timeout, Duration::from_secs(30));
        assert_eq!(settings.jet.instance.as_str(), "relay.example");
        assert_eq!(settings.state_dir, Path::new("/var/lib/midspan"));
        assert_eq!(settings.limits, Limits::defaults(1024, 4 << 30));
    }

    #[test]
    fn associations_are_created_on_accept_only_on_unconfigured_loopback() {
        let resolve = |flags: &Flags, text: Option<&str>| {
            let file = text.map(file);
            RelaySettings::resolve(flags, file.as_ref(), &HostFacts::example())
                .unwrap()
                .create_on_accept
        };
        let reachable = Flags {
            listen: vec!["0.0.0.0:1".parse().unwrap()],
            open: Some(true),
            ..Flags::default()
        };
        let asked = Flags {
            create_on_accept: Some(true),
            ..reachable.clone()
        };
        assert!(resolve(&Flags::default(), None));
        assert!(!resolve(&Flags::default(), Some("")));
        assert!(resolve(&Flags::default(), Some("create_on_accept = true")));
        assert!(!resolve(&reachable, None));
        assert!(resolve(&asked, None));
    }

    #[test]
    fn users_that_may_come_without_tls_are_noted() {
        for (listener, has_users, is_noted) in [
            ("0.0.0.0:1", true, true),
            ("jet+ws://0.0.0.0:1", true, true),
            ("jet+wss://0.0.0.0:1", true, false),
            ("127.0.0.1:1", true, false),
            ("0.0.0.0:1", false, false),
        ] {
            let flags = Flags {
                listen: vec!["127.0.0.1:2".parse().unwrap(), listener.parse().unwrap()],
                open: Some(true),
                ..Flags::default()
            };
            let mut settings = RelaySettings::resolve(&flags, None, &HostFacts::example()).unwrap();
            settings.users.path = has_users.then(|| "/users".into());
            let notes = settings.notes();
            assert_eq!(!notes.is_empty(), is_noted, "{listener}: {notes:?}");
        }
    }

    #[test]
    fn tunnels_without_tls_from_other_hosts_are_asked_for_and_noted() {
        let folder = tempfile::tempdir().unwrap();
        let check = |listener: &str, open: bool, insecure: bool, expected: Result<bool, &str>| {
            let users = folder.path();
            let file = file(&format!(
                "open = {open}\nlisten = [{listener:?}]\n[jproxy]\nusers = {users:?}\n\
                 insecure = {insecure}\n"
            ));
            let flags = Flags::default();
            let settings = RelaySettings::resolve(&flags, Some(&file), &HostFacts::example());
            let noted = settings.map(|settings| {
                let notes = settings.notes();
                notes
                    .iter()
                    .any(|note| note.contains("without TLS, where whoever"))
            });
            match (noted, expected) {
                (Ok(noted), Ok(expected)) => assert_eq!(noted, expected, "{listener}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (got, _) => panic!("{listener}: {got:?}"),
            }
        };
        let anybody =
            "0.0.0.0:1 can be reached from other hosts, and the relay would serve anybody";
        for insecure in [false, true] {
            check("jproxy://127.0.0.1:1", false, insecure, Ok(false));
            // Who has no key is not served there.
            check("jproxy+tls://0.0.0.0:1", false, insecure, Ok(false));
            check("0.0.0.0:1", true, insecure, Ok(false));
            check("0.0.0.0:1", false, insecure, Err(anybody));
        }
        check("jproxy://0.0.0.0:1", false, true, Ok(true));
        let expected = "0.0.0.0:1 can be reached from other hosts, and jProxy without TLS";
        check(
            "jproxy://0.0.0.0:1?dialect=spec",
            true,
            false,
            Err(expected),
        );
    }

    #[test]
    fn half_of_what_it_takes_to_await_somebody_is_noted() {
        for (lines, has_users, expected) in [
            ("", true, None),
            (
                "anybody = true",
                true,
                Some("without websocks.bind.addresses"),
            ),
            ("addresses = [\"127.0.0.1\"]", true, None),
            (
                "addresses = [\"127.0.0.1\"]",
                false,
                Some("without websocks.users"),
            ),
        ] {
            let file = file(&format!("[websocks.bind]\n{lines}\n"));
            let flags = Flags {
                listen: vec!["127.0.0.1:2".parse().unwrap()],
                ..Flags::default()
            };
            let facts = HostFacts::example();
            let mut settings = RelaySettings::resolve(&flags, Some(&file), &facts).unwrap();
            settings.users.path = has_users.then(|| "/users".into());
            match (&settings.notes()[..], expected) {
                ([], None) => {}
                ([note], Some(part)) => assert!(note.contains(part), "{note}"),
                (notes, _) => panic!("{lines}: {notes:?}"),
            }
        }
    }

    #[test]
    fn a_way_by_which_nobody_can_meet_is_noted() {
        let listed = |kind: &str, name: &str, hash: char, more: &str| {
            let hash = hash.to_string().repeat(64);
            format!("[[ptth.{kind}]]\nname = \"{name}\"\ncertificate_sha256 = \"{hash}\"\n{more}\n")
        };
        let server = listed("servers", "home", '1', "");
        let client = |may: &str| listed("clients", "alice", '2', &format!("may = [{may:?}]"));
        let by_quic = "[quic]\nlisten = [\"127.0.0.1:0\"]\n";
        for (lines, expected) in [
            ([String::new(), String::new()], None),
            (
                [by_quic.into(), String::new()],
                Some("and neither [[ptth.servers]] nor [[ptth.clients]] are listed"),
            ),
            (
                [by_quic.into(), client("*")],
                Some("and no [[ptth.servers]] are"),
            ),
            (
                [by_quic.into(), server.clone()],
                Some("and no [[ptth.clients]] are"),
            ),
            (
                [server.clone(), client("hme:22")],
                Some("called so: did you mean \"home\"?"),
            ),
            ([server.clone(), client("laboratory")], Some("called so")),
            (
                [by_quic.into(), format!("{server}{}", client("home:22"))],
                None,
            ),
        ] {
            let file = file(&lines.concat());
            let facts = HostFacts::example();
            let settings = RelaySettings::resolve(&Flags::default(), Some(&file), &facts).unwrap();
            match (&settings.notes()[..], expected) {
                ([], None) => {}
                ([note], Some(part)) => assert!(note.contains(part), "{note}"),
                (notes, _) => panic!("{lines:?}: {notes:?}"),
            }
        }
    }

    #[test]
    fn flags_override_the_file() {
        let file = file(
            "listen = [\"0.0.0.0:1\"]\nopen = true\ncores = 2\ndata_plane = \"copy\"\n\
             [limits]\nassociation_ttl_s = 60\npipes_max = 8\n",
        );
        let flags = Flags {
            listen: vec!["[::1]:2".parse().unwrap()],
            open: Some(false),
            cores: Some(CoreChoice::List(vec![1])),
            limits: vec!["association_ttl_s=90".parse().unwrap()],
            state_dir: Some("state".into()),
            ..Flags::default()
        };
        let settings = RelaySettings::resolve(&flags, Some(&file), &HostFacts::example()).unwrap();
        assert_eq!(settings.listen, ["[::1]:2".parse().unwrap()]);
        assert!(!settings.open);
        assert_eq!(settings.cores, [1]);
        assert_eq!(settings.data_plane, DataPlane::Copy);
        assert_eq!(settings.limits.association_ttl_s, 90);
        assert_eq!(settings.limits.pipes_max, 8);
        assert_eq!(settings.limits.connections_max, 1024 - 16 - 64);
        assert_eq!(settings.state_dir, Path::new("/home/operator/state"));
    }

    #[test]
    fn what_it_displays_says_the_same() {
        let settings =
            RelaySettings::resolve(&Flags::default(), None, &HostFacts::example()).unwrap();
        let again = file(&settings.to_string());
        let again =
            RelaySettings::resolve(&Flags::default(), Some(&again), &HostFacts::example()).unwrap();
        assert_eq!(again, settings);
    }

    #[test]
    fn errors_name_the_place() {
        let listen = |address: &str| Flags {
            listen: vec![address.parse().unwrap()],
            ..Flags::default()
        };
        check_error(
            &listen("0.0.0.0:8080"),
            None,
            "--listen: 0.0.0.0:8080 can be reached from other hosts, and the relay would serve \
             anybody without asking for credentials",
        );
        check_error(
            &Flags {
                cores: Some(CoreChoice::Count(3)),
                ..Flags::default()
            },
            None,
            "--cores: 3 cores asked for, but this process may use 2 (0, 1)",
        );
        check_error(
            &Flags {
                limits: vec!["connections_max=1000".parse().unwrap()],
                ..Flags::default()
            },
            Some("[limits]\npipes_max = 0"),
            "--limit connections_max: 1000 connections need 1064 descriptors with the pipes and reserve, but this \
             process may open 1024",
        );
        check_error(
            &Flags::default(),
            Some("[limits]\nhandshakes_max = 900"),
            "midspan.toml:2:18: limits.handshakes_max: 900 exceeds connections_max = 704",
        );
    }

    #[test]
    fn defaults_that_do_not_suit_the_host_tell_what_to_pass() {
        let check = |host: &HostFacts, flag: &str| {
            let error = RelaySettings::resolve(&Flags::default(), None, host).unwrap_err();
            assert!(!error.is_usage());
            assert!(error.next_step().unwrap().contains(flag), "{error}");
        };
        check(
            &HostFacts {
                state_dir: None,
                ..HostFacts::example()
            },
            "--state-dir",
        );
        check(
            &HostFacts {
                hostname: "(none)".into(),
                ..HostFacts::example()
            },
            "--jet-instance",
        );
    }
}
