//! Who serves and who uses forwarded ports: the servers and clients of PTTH, by their keys.
//!
//! A server is who has its key, or its certificate, and its name is its own; a client reaches the
//! servers and ports that it is let to. Keys are random, and kept as hashes; a certificate is
//! known by the key in it, whoever has signed it.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use super::api_key::{KeyHash, Presented};
use super::fingerprint::Fingerprint;
use crate::protocol::ptth_http::{Name, NameError};

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// By which clients ask for it.
    pub name: Name,
    /// What proves that it is that one.
    pub credentials: Credentials,
    /// Its number, for those who ask for it by one.
    pub legacy_id: Option<NonZeroU8>,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Whose it is, for people.
    pub name: Name,
    /// What proves that it is that one.
    pub credentials: Credentials,
    /// Its number, by which servers are told of it that it asks for by theirs.
    pub legacy_id: Option<NonZeroU8>,
    /// What it reaches.
    pub may: Vec<Reachable>,
}

/// What is kept of a key, or of a certificate, or of both: of whoever is listed, and of what
/// somebody shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Of the key.
    pub key: Option<KeyHash>,
    /// Of the certificate's `SubjectPublicKeyInfo`.
    pub certificate: Option<Fingerprint>,
}

/// What a client reaches: `*`, a server, or a port of one, `home:22`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reachable {
    /// `None`: every one.
    server: Option<Name>,
    /// `None`: every one of the server's.
    port: Option<Name>,
}

/// All servers and clients of a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    servers: Vec<Server>,
    clients: Vec<Client>,
}

/// Why somebody may not do what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotForwarded {
    /// It shows nothing.
    #[error("a key is needed")]
    NoKey,
    /// Nobody has this key or certificate, or both of them, in this role.
    #[error("the key is unknown")]
    UnknownKey,
    /// No such server, as far as this client is concerned.
    #[error("no such server")]
    NoServer,
}

impl Forwarding {
    /// These servers and clients, each of another name and number, and other credentials.
    #[must_use]
    pub const fn new(servers: Vec<Server>, clients: Vec<Client>) -> Self {
        Self { servers, clients }
    }

    /// Whether nobody forwards anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Every server.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Every client.
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// What clients are let to, and no server is called by.
    pub fn missing(&self) -> impl Iterator<Item = (&Client, &Reachable)> {
        let all = self.clients.iter();
        let each = all.flat_map(|client| client.may.iter().map(move |one| (client, one)));
        each.filter(|(_, one)| {
            let server = one.server.as_ref();
            server.is_some_and(|server| !self.has_server(server))
        })
    }

    /// A server that a client is let to, and the port if it is one alone; else the first.
    #[must_use]
    pub fn example(&self) -> Option<(&Name, Option<&Name>)> {
        let first = &self.servers.first()?.name;
        let all = self.clients.iter().flat_map(|client| &client.may);
        let mut reached = all.filter_map(|one| match &one.server {
            None => Some((first, None)),
            Some(server) => self
                .has_server(server)
                .then_some((server, one.port.as_ref())),
        });
        Some(reached.next().unwrap_or((first, None)))
    }

    fn has_server(&self, name: &Name) -> bool {
        self.servers.iter().any(|server| server.name == *name)
    }

    /// Which server shows this. How long this takes does not depend on the key.
    ///
    /// # Errors
    ///
    /// None does.
    pub fn server(&self, shown: Credentials) -> Result<&Server, NotForwarded> {
        find(&self.servers, shown, |server| server.credentials)
    }

    /// Which client shows this. How long this takes does not depend on the key.
    ///
    /// # Errors
    ///
    /// None does.
    pub fn client(&self, shown: Credentials) -> Result<&Client, NotForwarded> {
        find(&self.clients, shown, |client| client.credentials)
    }

    /// Whether a client reaches a port of a server that there is.
    ///
    /// # Errors
    ///
    /// It looks the same for a server that is none and for one that is not for this client.
    pub fn check(&self, client: &Client, server: &Name, port: &Name) -> Result<(), NotForwarded> {
        let mut may = client.may.iter();
        match may.any(|one| one.fits(server, port)) && self.has_server(server) {
            true => Ok(()),
            false => Err(NotForwarded::NoServer),
        }
    }

    /// The server of this number, if a client reaches each of its ports.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub fn check_number(&self, client: &Client, number: u8) -> Result<&Name, NotForwarded> {
        let number = NonZeroU8::new(number).ok_or(NotForwarded::NoServer)?;
        let mut servers = self.servers.iter();
        let server = servers.find(|server| server.legacy_id == Some(number));
        let name = &server.ok_or(NotForwarded::NoServer)?.name;
        match client.may.iter().any(|one| one.covers(name)) {
            true => Ok(name),
            false => Err(NotForwarded::NoServer),
        }
    }
}

fn find<T>(
    all: &[T],
    shown: Credentials,
    credentials_of: impl Fn(&T) -> Credentials,
) -> Result<&T, NotForwarded> {
    if shown.is_empty() {
        return Err(NotForwarded::NoKey);
    }
    let mut found = None;
    for one in all {
        // The comparison takes the same time for every key, and all are compared.
        if credentials_of(one).include(shown) {
            found = Some(one);
        }
    }
    found.ok_or(NotForwarded::UnknownKey)
}

impl Credentials {
    /// A key alone.
    #[must_use]
    pub fn of_key(presented: Option<&Presented>) -> Self {
        Self {
            key: presented.map(Presented::hash),
            certificate: None,
        }
    }

    /// Whether there is none at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.key.is_none() && self.certificate.is_none()
    }

    /// Whether somebody who is listed with these may show those: a key, a certificate, or both,
    /// of which each has to be his.
    #[must_use]
    pub fn include(&self, shown: Self) -> bool {
        let has_key = shown.key.is_none() || shown.key == self.key;
        let has_certificate = shown.certificate.is_none() || shown.certificate == self.certificate;
        has_key && has_certificate && !shown.is_empty()
    }
}

impl Reachable {
    /// The server, where it is one alone.
    #[must_use]
    pub const fn server(&self) -> Option<&Name> {
        self.server.as_ref()
    }

    fn fits(&self, server: &Name, port: &Name) -> bool {
        let fits = |own: &Option<Name>, name: &Name| own.as_ref().is_none_or(|own| own == name);
        fits(&self.server, server) && fits(&self.port, port)
    }

    /// Whether it is all of a server.
    fn covers(&self, server: &Name) -> bool {
        self.port.is_none() && self.server.as_ref().is_none_or(|own| own == server)
    }
}

impl FromStr for Reachable {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "*" {
            return Ok(Self {
                server: None,
                port: None,
            });
        }
        let (server, port) = match text.split_once(':') {
            Some((server, port)) => (server, Some(port.parse()?)),
            None => (text, None),
        };
        Ok(Self {
            server: Some(server.parse()?),
            port,
        })
    }
}

impl fmt::Display for Reachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.server, &self.port) {
            (None, _) => f.write_str("*"),
            (Some(server), None) => server.fmt(f),
            (Some(server), Some(port)) => write!(f, "{server}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ApiKey;
    use super::*;

    fn key(byte: u8) -> ApiKey {
        ApiKey::from_random([byte; 24])
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// A key and a certificate; 0 is none.
    fn shown(key_byte: u8, certificate_byte: u8) -> Credentials {
        Credentials {
            key: (key_byte > 0).then(|| key(key_byte).hash()),
            certificate: (certificate_byte > 0).then(|| Fingerprint::of(&[certificate_byte])),
        }
    }

    fn forwarding() -> Forwarding {
        let server = |text, byte| Server {
            name: name(text),
            credentials: shown(byte, 0),
            legacy_id: NonZeroU8::new(byte),
        };
        let client = |text, byte, may: &[&str]| Client {
            name: name(text),
            credentials: shown(byte, 0),
            legacy_id: None,
            may: may.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Forwarding::new(
            vec![server("home", 1), server("lab", 2)],
            vec![
                client("alice", 3, &["home:22", "lab"]),
                client("root", 4, &["*"]),
                client("nobody", 5, &[]),
            ],
        )
    }

    #[test]
    fn a_key_is_good_in_its_own_role_alone() {
        let all = forwarding();
        let server = |byte| all.server(shown(byte, 0)).map(|it| it.name.as_str());
        let client = |byte| all.client(shown(byte, 0)).map(|it| it.name.as_str());
        assert_eq!(server(2), Ok("lab"));
        assert_eq!(client(3), Ok("alice"));
        assert_eq!(server(3), Err(NotForwarded::UnknownKey));
        assert_eq!(client(1), Err(NotForwarded::UnknownKey));
        assert_eq!(client(0), Err(NotForwarded::NoKey));
    }

    #[test]
    fn all_that_somebody_shows_has_to_be_his() {
        let (by_key, by_certificate, by_both) = (shown(1, 0), shown(0, 2), shown(3, 4));
        for (listed, key, certificate, is_his) in [
            (by_key, 1, 0, true),
            (by_key, 2, 0, false),
            (by_key, 0, 2, false),
            (by_key, 1, 2, false),
            (by_certificate, 0, 2, true),
            (by_certificate, 0, 1, false),
            (by_certificate, 1, 2, false),
            (by_both, 3, 0, true),
            (by_both, 0, 4, true),
            (by_both, 3, 4, true),
            (by_both, 3, 2, false),
            (by_both, 1, 4, false),
            (by_both, 0, 0, false),
        ] {
            let include = listed.include(shown(key, certificate));
            assert_eq!(include, is_his, "{listed:?} {key} {certificate}");
        }
    }

    #[test]
    fn a_client_reaches_what_it_is_let_to() {
        let all = forwarding();
        for (client, server, port, is_reached) in [
            (0, "home", "22", true),
            (0, "home", "80", false),
            (0, "lab", "80", true),
            (1, "home", "80", true),
            (1, "moon", "80", false),
            (2, "home", "22", false),
        ] {
            let checked = all.check(&all.clients()[client], &name(server), &name(port));
            assert_eq!(checked.is_ok(), is_reached, "{client} {server}:{port}");
        }
    }

    #[test]
    fn a_number_is_for_who_reaches_all_of_a_server() {
        let all = forwarding();
        for (client, number, server) in [
            (0, 1, None),
            (0, 2, Some("lab")),
            (1, 1, Some("home")),
            (1, 2, Some("lab")),
            (1, 3, None),
            (1, 0, None),
            (2, 1, None),
        ] {
            let checked = all.check_number(&all.clients()[client], number);
            let expected = server.ok_or(NotForwarded::NoServer);
            assert_eq!(checked.map(Name::as_str), expected, "{client} {number}");
        }
    }

    #[test]
    fn what_nobody_is_called_by_is_told() {
        let all = forwarding();
        assert_eq!(all.missing().count(), 0);
        assert_eq!(all.example(), Some((&name("home"), Some(&name("22")))));
        let lab_alone = Forwarding::new(all.servers()[1..].to_vec(), all.clients().to_vec());
        let missing: Vec<_> = lab_alone
            .missing()
            .map(|(client, one)| format!("{} {one}", client.name))
            .collect();
        assert_eq!(missing, ["alice home:22"]);
        assert_eq!(lab_alone.example(), Some((&name("lab"), None)));
        let nobody = Forwarding::new(Vec::new(), all.clients().to_vec());
        assert_eq!(nobody.example(), None);
    }

    #[test]
    fn what_is_reached_is_read_as_it_is_written() {
        for text in ["*", "home", "home:22"] {
            assert_eq!(text.parse::<Reachable>().unwrap().to_string(), text);
        }
        for wrong in ["", "home:", ":22", "*:22", "a b"] {
            assert!(wrong.parse::<Reachable>().is_err(), "{wrong}");
        }
    }
}
