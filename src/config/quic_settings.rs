//! Where QUIC is spoken, and how: `[quic]`.

use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::file::ConfigFile;
use super::settings::Flags;
use super::{ConfigError, ListenAddress, Place, Problem};

/// Where and how the relay speaks QUIC. Without an address it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuicSettings {
    /// Addresses of UDP, none twice. A TCP listener may have the same port.
    pub listen: Vec<ListenAddress>,
}

/// `[quic]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenQuic {
    #[serde(default)]
    listen: Vec<Spanned<String>>,
}

/// What the command line says, or the file.
pub(super) fn quic(flags: &Flags, file: Option<&ConfigFile>) -> Result<QuicSettings, ConfigError> {
    let mut listen: Vec<ListenAddress> = Vec::new();
    let mut add = |address: ListenAddress, place: &dyn Fn() -> Place| {
        if address.0.port() != 0 && listen.contains(&address) {
            return Err(ConfigError::new(
                place(),
                Problem::ListenerTwice { address },
            ));
        }
        listen.push(address);
        Ok(())
    };
    if !flags.quic_listen.is_empty() {
        for address in &flags.quic_listen {
            add(*address, &|| Place::Flag("--quic-listen"))?;
        }
    } else if let Some(file) = file {
        for written in &file.written().quic.listen {
            let wrong = |error| ConfigError::new(file.place(written), Problem::Value(error));
            let address = written.get_ref().parse().map_err(wrong)?;
            add(address, &|| file.place(written))?;
        }
    }
    if let Some(file) = file
        && let Some(client_ca) = &file.written().tls.client_ca
        && !listen.is_empty()
    {
        let place = file.place(client_ca);
        return Err(ConfigError::new(place, Problem::ClientCaOverQuic));
    }
    Ok(QuicSettings { listen })
}

impl fmt::Display for QuicSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.listen.is_empty() {
            return Ok(());
        }
        let listen: Vec<_> = self.listen.iter().map(|one| format!("\"{one}\"")).collect();
        writeln!(f, "\n[quic]\nlisten = [{}]", listen.join(", "))
    }
}
