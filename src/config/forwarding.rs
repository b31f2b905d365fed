//! Who serves and who uses forwarded ports, as the file lists them: `[[ptth.servers]]` and
//! `[[ptth.clients]]`.

use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::file::ConfigFile;
use super::{ConfigError, Problem};
use crate::access::KeyHash;
use crate::access::forwarding::{Client, Forwarding, Server};
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
    sha256: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenClient {
    name: Spanned<String>,
    sha256: Spanned<String>,
    may: Vec<Spanned<String>>,
}

/// Who is listed: whose names and keys nobody else may have. A client may be called as a server
/// is, but no key is good for both.
#[derive(Default)]
struct Taken(Vec<(Role, Name, KeyHash)>);

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
        let (name, hash) = taken.take(file, Role::Server, &server.name, &server.sha256)?;
        servers.push(Server { name, hash });
    }
    let mut clients = Vec::new();
    for client in &written.clients {
        let (name, hash) = taken.take(file, Role::Client, &client.name, &client.sha256)?;
        let parse = |text: &Spanned<String>| {
            let wrong = |error| ConfigError::new(file.place(text), Problem::Name(error));
            text.get_ref().parse().map_err(wrong)
        };
        let may = client.may.iter().map(parse).collect::<Result<_, _>>()?;
        clients.push(Client { name, hash, may });
    }
    Ok(Forwarding::new(servers, clients))
}

impl Taken {
    fn take(
        &mut self,
        file: &ConfigFile,
        role: Role,
        name: &Spanned<String>,
        sha256: &Spanned<String>,
    ) -> Result<(Name, KeyHash), ConfigError> {
        let wrong_name = |error| ConfigError::new(file.place(name), Problem::Name(error));
        let parsed: Name = name.get_ref().parse().map_err(wrong_name)?;
        let maker = role.maker();
        let wrong_hash =
            |error| ConfigError::new(file.place(sha256), Problem::KeyHash { error, maker });
        let hash: KeyHash = sha256.get_ref().parse().map_err(wrong_hash)?;
        for (of, holder, theirs) in &self.0 {
            if *of == role && *holder == parsed {
                let problem = Problem::NameListed {
                    role: role.as_str(),
                    name: parsed.to_string(),
                };
                return Err(ConfigError::new(file.place(name), problem));
            }
            if *theirs == hash {
                let problem = Problem::KeyListed {
                    name: parsed.to_string(),
                    role: of.as_str(),
                    holder: holder.to_string(),
                    maker,
                };
                return Err(ConfigError::new(file.place(sha256), problem));
            }
        }
        self.0.push((role, parsed.clone(), hash));
        Ok((parsed, hash))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, hash } = self;
        writeln!(
            f,
            "[[ptth.servers]]\nname = \"{name}\"\nsha256 = \"{hash}\""
        )
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, hash, may } = self;
        let may: Vec<_> = may.iter().map(|one| format!("\"{one}\"")).collect();
        let may = may.join(", ");
        writeln!(
            f,
            "[[ptth.clients]]\nname = \"{name}\"\nsha256 = \"{hash}\"\nmay = [{may}]"
        )
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
