//! Who serves and who uses forwarded ports, as the file lists them: `[[ptth.servers]]` and
//! `[[ptth.clients]]`.

use std::fmt;
use std::num::NonZeroU8;

use serde::Deserialize;
use toml::Spanned;

use super::file::ConfigFile;
use super::{ConfigError, Problem};
use crate::access::Fingerprint;
use crate::access::forwarding::{Client, Credentials, Forwarding, Server};
use crate::protocol::ptth_http::Name;

/// `[ptth]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPtth {
    #[serde(default)]
    servers: Vec<WrittenServer>,
    #[serde(default)]
    clients: Vec<WrittenClient>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenServer {
    name: Spanned<String>,
    sha256: Option<Spanned<String>>,
    certificate_sha256: Option<Spanned<String>>,
    legacy_id: Option<Spanned<NonZeroU8>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenClient {
    name: Spanned<String>,
    sha256: Option<Spanned<String>>,
    certificate_sha256: Option<Spanned<String>>,
    legacy_id: Option<Spanned<NonZeroU8>>,
    may: Vec<Spanned<String>>,
}

/// What both of them have.
struct WrittenParty<'a> {
    role: Role,
    name: &'a Spanned<String>,
    sha256: Option<&'a Spanned<String>>,
    certificate_sha256: Option<&'a Spanned<String>>,
    legacy_id: Option<&'a Spanned<NonZeroU8>>,
}

/// Who is listed: whose names, numbers and credentials nobody else may have. A client may be called
/// and numbered as a server is, but no key or certificate is good for both.
#[derive(Default)]
struct Taken(Vec<Party>);

#[derive(Clone)]
struct Party {
    role: Role,
    name: Name,
    credentials: Credentials,
    legacy_id: Option<NonZeroU8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    /// The command that makes such a key.
    const fn maker(self) -> &'static str {
        match self {
            Self::Server => "midspan key NAME --for ptth-server",
            Self::Client => "midspan key NAME --for ptth-client --may SERVER:PORT",
        }
    }
}

/// The servers and clients that the file lists.
pub(super) fn forwarding(file: Option<&ConfigFile>) -> Result<Forwarding, ConfigError> {
    let Some(file) = file else {
        return Ok(Forwarding::default());
    };
    let written = &file.written().ptth;
    let mut taken = Taken::default();
    let mut servers = Vec::new();
    for server in &written.servers {
        let party = taken.take(file, &server.party())?;
        servers.push(Server {
            name: party.name,
            credentials: party.credentials,
            legacy_id: party.legacy_id,
        });
    }
    let mut clients = Vec::new();
    for client in &written.clients {
        let party = taken.take(file, &client.party())?;
        let parse = |text: &Spanned<String>| {
            let wrong = |error| ConfigError::new(file.place(text), Problem::Name(error));
            text.get_ref().parse().map_err(wrong)
        };
        let may = client.may.iter().map(parse).collect::<Result<_, _>>()?;
        clients.push(Client {
            name: party.name,
            credentials: party.credentials,
            legacy_id: party.legacy_id,
            may,
        });
    }
    Ok(Forwarding::new(servers, clients))
}

impl WrittenServer {
    const fn party(&self) -> WrittenParty<'_> {
        WrittenParty {
            role: Role::Server,
            name: &self.name,
            sha256: self.sha256.as_ref(),
            certificate_sha256: self.certificate_sha256.as_ref(),
            legacy_id: self.legacy_id.as_ref(),
        }
    }
}

impl WrittenClient {
    const fn party(&self) -> WrittenParty<'_> {
        WrittenParty {
            role: Role::Client,
            name: &self.name,
            sha256: self.sha256.as_ref(),
            certificate_sha256: self.certificate_sha256.as_ref(),
            legacy_id: self.legacy_id.as_ref(),
        }
    }
}

impl WrittenParty<'_> {
    /// What it proves who it is with: one of both at least.
    fn credentials(&self, file: &ConfigFile) -> Result<Credentials, ConfigError> {
        let maker = self.role.maker();
        let key = self.sha256.map(|written| {
            let wrong =
                |error| ConfigError::new(file.place(written), Problem::KeyHash { error, maker });
            written.get_ref().parse().map_err(wrong)
        });
        let certificate = self.certificate_sha256.map(|written| {
            let problem = |error| Problem::CertificateHash { error };
            let wrong = |error| ConfigError::new(file.place(written), problem(error));
            let known_by: Fingerprint = written.get_ref().parse().map_err(wrong)?;
            match known_by == Fingerprint::of(&[]) {
                true => Err(ConfigError::new(
                    file.place(written),
                    Problem::HashOfNothing,
                )),
                false => Ok(known_by),
            }
        });
        let credentials = Credentials {
            key: key.transpose()?,
            certificate: certificate.transpose()?,
        };
        if credentials.is_empty() {
            let problem = Problem::NoCredentials {
                role: self.role.as_str(),
                name: self.name.get_ref().clone(),
                maker,
            };
            return Err(ConfigError::new(file.place(self.name), problem));
        }
        Ok(credentials)
    }
}

impl Taken {
    fn take(
        &mut self,
        file: &ConfigFile,
        written: &WrittenParty<'_>,
    ) -> Result<Party, ConfigError> {
        let wrong_name = |error| ConfigError::new(file.place(written.name), Problem::Name(error));
        let name: Name = written.name.get_ref().parse().map_err(wrong_name)?;
        let credentials = written.credentials(file)?;
        let role = written.role;
        for other in &self.0 {
            if other.role == role && other.name == name {
                let problem = Problem::NameListed {
                    role: role.as_str(),
                    name: name.to_string(),
                };
                return Err(ConfigError::new(file.place(written.name), problem));
            }
            if let Some(number) = written.legacy_id
                && other.role == role
                && other.legacy_id == Some(*number.get_ref())
            {
                let problem = Problem::NumberListed {
                    number: *number.get_ref(),
                    role: role.as_str(),
                    holder: other.name.to_string(),
                };
                return Err(ConfigError::new(file.place(number), problem));
            }
            let listed = |what, place| {
                let problem = Problem::CredentialListed {
                    what,
                    name: name.to_string(),
                    role: other.role.as_str(),
                    holder: other.name.to_string(),
                    maker: role.maker(),
                };
                ConfigError::new(file.place(place), problem)
            };
            let theirs = &other.credentials;
            if let Some(place) = written.sha256
                && theirs.key == credentials.key
            {
                return Err(listed("key", place));
            }
            if let Some(place) = written.certificate_sha256
                && theirs.certificate == credentials.certificate
            {
                return Err(listed("certificate", place));
            }
        }
        let party = Party {
            role,
            name,
            credentials,
            legacy_id: written.legacy_id.map(|number| *number.get_ref()),
        };
        self.0.push(party.clone());
        Ok(party)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            credentials,
            legacy_id,
        } = self;
        writeln!(f, "[[ptth.servers]]\nname = \"{name}\"\n{credentials}")?;
        Number(*legacy_id).fmt(f)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            credentials,
            legacy_id,
            may,
        } = self;
        let may: Vec<_> = may.iter().map(|one| format!("\"{one}\"")).collect();
        let may = may.join(", ");
        writeln!(
            f,
            "[[ptth.clients]]\nname = \"{name}\"\n{credentials}\nmay = [{may}]"
        )?;
        Number(*legacy_id).fmt(f)
    }
}

/// The line of a number, where there is one.
struct Number(Option<NonZeroU8>);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => writeln!(f, "legacy_id = {number}"),
            None => Ok(()),
        }
    }
}

/// A line each.
impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.map(|key| format!("sha256 = \"{key}\""));
        let certificate = self
            .certificate
            .map(|certificate| format!("certificate_sha256 = \"{certificate}\""));
        let lines: Vec<_> = key.into_iter().chain(certificate).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// As the file writes them.
pub(super) struct Shown<'a>(pub(super) &'a Forwarding);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in self.0.servers() {
            write!(f, "\n{server}")?;
        }
        for client in self.0.clients() {
            write!(f, "\n{client}")?;
        }
        Ok(())
    }
}
