//! Where QUIC is spoken, and how: `[quic]`.

use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::file::ConfigFile;
use super::settings::Flags;
use super::{ConfigError, Congestion, ListenAddress, Place, Problem};

/// What every network has to carry (RFC 9000 §14), in bytes of UDP payload.
pub const MTU_MIN: u16 = 1200;
/// What an Ethernet of jumbo frames carries: 9000 bytes without IPv6's and UDP's headers. Longer
/// datagrams gain nothing, as fewer fit into a burst.
pub const MTU_MAX: u16 = 8952;
/// What an Ethernet carries: 1500 bytes without those headers.
const MTU_DEFAULT: u16 = 1452;

/// Where and how the relay speaks QUIC. Without an address it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuicSettings {
    /// Addresses of UDP, none twice. A TCP listener may have the same port.
    pub listen: Vec<ListenAddress>,
    pub path: PathSettings,
}

/// How a connection uses its path through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSettings {
    pub congestion: Congestion,
    /// The longest UDP payload to try for, in bytes, from [`MTU_MIN`] to [`MTU_MAX`].
    pub mtu_max: u16,
}

impl PathSettings {
    /// What suits most networks.
    pub const DEFAULT: Self = Self {
        congestion: Congestion::Cubic,
        mtu_max: MTU_DEFAULT,
    };
}

impl Default for PathSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// `[quic]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenQuic {
    #[serde(default)]
    listen: Vec<Spanned<String>>,
    congestion: Option<Congestion>,
    mtu_max: Option<Spanned<u64>>,
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
    let path = match file {
        Some(file) => path(file)?,
        None => PathSettings::default(),
    };
    Ok(QuicSettings { listen, path })
}

fn path(file: &ConfigFile) -> Result<PathSettings, ConfigError> {
    let written = &file.written().quic;
    let mtu_max = match &written.mtu_max {
        None => MTU_DEFAULT,
        Some(value) => u16::try_from(*value.get_ref())
            .ok()
            .filter(|bytes| (MTU_MIN..=MTU_MAX).contains(bytes))
            .ok_or_else(|| {
                let problem = Problem::OutOfRange {
                    value: *value.get_ref(),
                    min: MTU_MIN.into(),
                    max: MTU_MAX.into(),
                };
                ConfigError::new(file.place(value), problem)
            })?,
    };
    Ok(PathSettings {
        congestion: written.congestion.unwrap_or_default(),
        mtu_max,
    })
}

impl fmt::Display for QuicSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return Ok(());
        }
        let PathSettings {
            congestion,
            mtu_max,
        } = self.path;
        let listen: Vec<_> = self.listen.iter().map(|one| format!("\"{one}\"")).collect();
        writeln!(f, "\n[quic]\nlisten = [{}]", listen.join(", "))?;
        writeln!(f, "congestion = \"{congestion}\"\nmtu_max = {mtu_max}")
    }
}
