//! Where the relay listens, and where operators look: as written, or on the sockets
//! that systemd has bound. What is written besides has to name the same ones.

use super::file::ConfigFile;
use super::settings::{Flags, HostFacts, LISTEN_DEFAULT};
use super::{ConfigError, ListenAddress, Listener, Place, Problem};

/// Sockets that this process was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenSockets {
    /// Those to serve peers on.
    pub listen: Vec<Listener>,
    /// The one to serve operators on.
    pub admin: Option<ListenAddress>,
}

type Placed = (Listener, Place);

pub(super) fn listeners(
    flags: &Flags,
    file: Option<&ConfigFile>,
    host: &HostFacts,
) -> Result<Vec<Placed>, ConfigError> {
    let written = written(flags, file)?;
    let given = &host.given.listen;
    let listeners = match written {
        Some(written) if given.is_empty() => written,
        Some(written) => agreed(given, written)?,
        None if given.is_empty() => vec![(LISTEN_DEFAULT, Place::Default)],
        None => given.iter().map(|given| (*given, Place::Systemd)).collect(),
    };
    for (index, (listener, place)) in listeners.iter().enumerate() {
        let address = listener.address;
        // Port 0 gives another port each time.
        let earlier = listeners[..index]
            .iter()
            .any(|(earlier, _)| earlier.address == address);
        if earlier && address.0.port() != 0 {
            let problem = Problem::ListenerTwice { address };
            return Err(ConfigError::new(place.clone(), problem));
        }
    }
    Ok(listeners)
}

fn written(flags: &Flags, file: Option<&ConfigFile>) -> Result<Option<Vec<Placed>>, ConfigError> {
    if !flags.listen.is_empty() {
        let place = |listener: &Listener| (*listener, Place::Flag("--listen"));
        return Ok(Some(flags.listen.iter().map(place).collect()));
    }
    let in_file = file.and_then(|file| Some((file, file.written().listen.as_ref()?)));
    let Some((file, listen)) = in_file else {
        return Ok(None);
    };
    if listen.get_ref().is_empty() {
        return Err(ConfigError::new(file.place(listen), Problem::NoListener));
    }
    let parse = |written: &toml::Spanned<String>| {
        let place = file.place(written);
        match written.get_ref().parse() {
            Ok(listener) => Ok((listener, place)),
            Err(error) => Err(ConfigError::new(place, Problem::Value(error))),
        }
    };
    let listeners: Result<_, _> = listen.get_ref().iter().map(parse).collect();
    listeners.map(Some)
}

/// Those that are written, pinned as well where the socket's name says so.
fn agreed(given: &[Listener], mut written: Vec<Placed>) -> Result<Vec<Placed>, ConfigError> {
    for (index, listener) in given.iter().enumerate() {
        let address = listener.address;
        // Pinned to one thing and to another, or not: which is meant?
        if given[..index]
            .iter()
            .any(|earlier| earlier.address == address)
        {
            return Err(ConfigError::new(
                Place::Systemd,
                Problem::ListenerTwice { address },
            ));
        }
    }
    let other = |place: &Place| {
        let given = given.to_vec();
        ConfigError::new(place.clone(), Problem::OtherSockets { given })
    };
    for (listener, place) in &mut written {
        let same = given.iter().find(|given| given.address == listener.address);
        let Some(same) = same else {
            return Err(other(place));
        };
        if let (Some(written), Some(given)) = (listener.only, same.only)
            && !given.is_named(written)
        {
            return Err(other(place));
        }
        listener.only = listener.only.or(same.only);
    }
    let is_written = |given: &Listener| written.iter().any(|(one, _)| one.address == given.address);
    match given.iter().all(is_written) {
        true => Ok(written),
        false => Err(other(&written[0].1)),
    }
}

pub(super) fn admin(
    flags: &Flags,
    file: Option<&ConfigFile>,
    host: &HostFacts,
) -> Result<Option<ListenAddress>, ConfigError> {
    let in_file = file.and_then(|file| Some((file, file.written().admin.as_ref()?)));
    let written = match (flags.admin, in_file) {
        (Some(address), _) => Some((address, Place::Flag("--admin"))),
        (None, Some((file, written))) => {
            let place = file.place(written);
            match written.get_ref().parse() {
                Ok(address) => Some((address, place)),
                Err(error) => return Err(ConfigError::new(place, Problem::Value(error))),
            }
        }
        (None, None) => None,
    };
    let (address, place) = match (written, host.given.admin) {
        (Some((address, place)), Some(given)) if address != given => {
            let given = vec![Listener::any(given)];
            return Err(ConfigError::new(place, Problem::OtherSockets { given }));
        }
        (Some(written), _) => written,
        (None, Some(given)) => (given, Place::Systemd),
        (None, None) => return Ok(None),
    };
    if address.is_loopback() {
        Ok(Some(address))
    } else {
        Err(ConfigError::new(place, Problem::AdminReachable { address }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::settings::RelaySettings;
    use super::*;

    fn listener(written: &str) -> Listener {
        written.parse().expect("a listener")
    }

    /// What the relay listens on, or why it does not.
    fn check(given: &[&str], written: &[&str], open: bool, expected: Result<&[&str], &str>) {
        let host = HostFacts {
            given: GivenSockets {
                listen: given.iter().copied().map(listener).collect(),
                admin: None,
            },
            ..HostFacts::example()
        };
        let text = match written {
            [] => format!("open = {open}"),
            written => format!("open = {open}\nlisten = {written:?}"),
        };
        let file = ConfigFile::parse(Path::new("relay.toml"), text).expect("TOML");
        let settings = RelaySettings::resolve(&Flags::default(), Some(&file), &host);
        match (settings, expected) {
            (Ok(settings), Ok(expected)) => {
                let expected: Vec<_> = expected.iter().copied().map(listener).collect();
                assert_eq!(settings.listen, expected, "{given:?} {written:?}");
            }
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
            (got, expected) => panic!("{given:?} {written:?}: {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn sockets_that_were_given_are_served_and_what_is_written_names_them() {
        let both = ["0.0.0.0:443", "[::]:443"];
        check(&both, &[], true, Ok(&both));
        check(
            &both,
            &["[::]:443", "0.0.0.0:443"],
            true,
            Ok(&["[::]:443", "0.0.0.0:443"]),
        );
        check(
            &both,
            &["[::]:443"],
            true,
            Err(
                "relay.toml:2:11: listen: systemd has bound 0.0.0.0:443, [::]:443, and this asks \
                 for others",
            ),
        );
        check(
            &both,
            &["[::]:443", "0.0.0.0:444"],
            true,
            Err(
                "relay.toml:2:23: listen: systemd has bound 0.0.0.0:443, [::]:443, and this asks \
                 for others",
            ),
        );
    }

    #[test]
    fn either_may_pin() {
        let (tls, wss) = ("jet+tls://127.0.0.1:1", "jet+wss://127.0.0.1:1");
        check(&[tls], &[], false, Ok(&[tls]));
        check(&[tls], &["127.0.0.1:1"], false, Ok(&[tls]));
        check(&["127.0.0.1:1"], &[tls], false, Ok(&[tls]));
        check(&[tls], &[tls], false, Ok(&[tls]));
        check(
            &[tls],
            &[wss],
            false,
            Err(
                "relay.toml:2:11: listen: systemd has bound jet+tls://127.0.0.1:1, and this asks \
                 for others",
            ),
        );
        check(
            &[tls, wss],
            &[],
            false,
            Err("systemd: 127.0.0.1:1 is listed twice"),
        );
        // And not the first of them, because it is written.
        check(
            &["127.0.0.1:1", tls],
            &["127.0.0.1:1"],
            false,
            Err("systemd: 127.0.0.1:1 is listed twice"),
        );
    }

    #[test]
    fn a_dialect_is_written_beside_a_sockets_name() {
        let host = HostFacts {
            given: GivenSockets {
                listen: vec![listener("jproxy://127.0.0.1:1")],
                admin: None,
            },
            ..HostFacts::example()
        };
        let text = "listen = [\"jproxy://127.0.0.1:1?dialect=original\"]".to_owned();
        let file = ConfigFile::parse(Path::new("relay.toml"), text).expect("TOML");
        let listeners = listeners(&Flags::default(), Some(&file), &host).expect("the same");
        let expected = listener("jproxy://127.0.0.1:1?dialect=original");
        assert_eq!(listeners[0].0, expected);
    }

    #[test]
    fn whoever_binds_others_are_served_only_when_that_was_said() {
        check(
            &["[::]:443"],
            &[],
            false,
            Err(
                "systemd: [::]:443 can be reached from other hosts, and the relay would serve \
                 anybody without asking for credentials",
            ),
        );
    }

    #[test]
    fn operators_look_on_loopback_whoever_binds() {
        let check = |given: &str, written: Option<&str>, expected: Result<&str, &str>| {
            let address = |text: &str| text.parse::<ListenAddress>().expect("an address");
            let host = HostFacts {
                given: GivenSockets {
                    listen: Vec::new(),
                    admin: Some(address(given)),
                },
                ..HostFacts::example()
            };
            let flags = Flags {
                admin: written.map(address),
                ..Flags::default()
            };
            let settings = RelaySettings::resolve(&flags, None, &host);
            let got = settings.map(|settings| (settings.admin, settings.listen));
            match (got, expected) {
                (Ok(got), Ok(expected)) => {
                    assert_eq!(got, (Some(address(expected)), vec![LISTEN_DEFAULT]));
                }
                (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
                (got, expected) => panic!("{given}: {got:?}, not {expected:?}"),
            }
        };
        let loopback = "127.0.0.1:9090";
        check(loopback, None, Ok(loopback));
        check(loopback, Some(loopback), Ok(loopback));
        check(
            loopback,
            Some("127.0.0.1:9091"),
            Err("--admin: systemd has bound 127.0.0.1:9090, and this asks for others"),
        );
        check(
            "0.0.0.0:9090",
            None,
            Err(
                "systemd: 0.0.0.0:9090 can be reached from other hosts, and nobody is asked who \
                 looks",
            ),
        );
    }
}
