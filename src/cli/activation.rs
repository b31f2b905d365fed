//! The sockets that systemd has bound and passes on, see sd_listen_fds(3).

use std::env;
use std::process;

use anyhow::ensure;

use super::Advise;
use crate::config::{GivenSockets, ListenAddress, Listener};
use crate::runtime::inherited::InheritedSocket;

/// The name of the socket on which operators are served.
const ADMIN_NAME: &str = "admin";

/// What the process was started with.
#[derive(Debug)]
pub(super) struct Activation {
    /// Those to serve peers on: one for each shard and address.
    pub(super) peers: Vec<InheritedSocket>,
    /// The one to serve operators on.
    pub(super) admin: Option<InheritedSocket>,
    /// The same as settings.
    pub(super) given: GivenSockets,
}

impl Activation {
    /// Takes what the environment says that there is; nothing, if that is meant for
    /// another process.
    ///
    /// # Errors
    ///
    /// A descriptor that is no listening TCP socket, or a name that cannot be meant.
    pub(super) fn take() -> anyhow::Result<Self> {
        let names = names(|name| env::var(name).ok(), process::id());
        let count = u16::try_from(names.len()).unwrap_or(u16::MAX);
        let sockets = InheritedSocket::take(count)
            .advise("in the .socket unit, write ListenStream=ADDR:PORT and no Accept=yes")?;
        let mut taken = Self {
            peers: Vec::new(),
            admin: None,
            given: GivenSockets::default(),
        };
        for (name, socket) in names.iter().zip(sockets) {
            let address = ListenAddress(socket.address());
            if name == ADMIN_NAME {
                ensure!(
                    taken.admin.is_none(),
                    "systemd gives a second socket of the name {ADMIN_NAME}, on {address}"
                );
                taken.given.admin = Some(address);
                taken.admin = Some(socket);
                continue;
            }
            let listener = Listener::named(address, name)
                .advise("correct FileDescriptorName= in the .socket unit, or leave it out")?;
            if !taken.given.listen.contains(&listener) {
                taken.given.listen.push(listener);
            }
            taken.peers.push(socket);
        }
        Ok(taken)
    }
}

/// The names of the sockets, in order. One without a name has an empty one.
fn names(variable: impl Fn(&str) -> Option<String>, own_id: u32) -> Vec<String> {
    if variable("LISTEN_PID") != Some(own_id.to_string()) {
        return Vec::new();
    }
    let count = variable("LISTEN_FDS").and_then(|count| count.parse::<u16>().ok());
    let named = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names: Vec<String> = named.split(':').map(str::to_owned).collect();
    names.resize(count.unwrap_or(0).into(), String::new());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_names_of_what_is_meant_for_this_process() {
        let check = |pid: &str, fds: Option<&str>, named: Option<&str>, expected: &[&str]| {
            let variable = |name: &str| match name {
                "LISTEN_PID" => Some(pid.to_owned()),
                "LISTEN_FDS" => fds.map(str::to_owned),
                "LISTEN_FDNAMES" => named.map(str::to_owned),
                _ => None,
            };
            assert_eq!(names(variable, 7), expected, "{pid} {fds:?} {named:?}");
        };
        check("7", Some("2"), Some("jet+tls:admin"), &["jet+tls", "admin"]);
        check("7", Some("2"), Some("jet+tls"), &["jet+tls", ""]);
        check("7", Some("1"), Some("a:b"), &["a"]);
        check("7", Some("2"), None, &["", ""]);
        check("7", Some("0"), None, &[]);
        check("7", None, Some("a"), &[]);
        check("7", Some("-1"), None, &[]);
        check("8", Some("2"), Some("a:b"), &[]);
        assert!(names(|_| None, 7).is_empty());
    }
}
