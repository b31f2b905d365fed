//! Where the relay listens, and where operators look.

use super::file::ConfigFile;
use super::settings::{Flags, LISTEN_DEFAULT};
use super::{ConfigError, ListenAddress, Listener, Place, Problem};

pub(super) fn listeners(
    flags: &Flags,
    file: Option<&ConfigFile>,
) -> Result<Vec<(Listener, Place)>, ConfigError> {
    let in_file = file.and_then(|file| Some((file, file.written().listen.as_ref()?)));
    let written: Vec<(Listener, Place)> = if !flags.listen.is_empty() {
        flags
            .listen
            .iter()
            .map(|listener| (*listener, Place::Flag("--listen")))
            .collect()
    } else if let Some((file, listen)) = in_file {
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
        listen
            .get_ref()
            .iter()
            .map(parse)
            .collect::<Result<_, _>>()?
    } else {
        vec![(LISTEN_DEFAULT, Place::Default)]
    };
    for (index, (listener, place)) in written.iter().enumerate() {
        let address = listener.address;
        // Port 0 gives another port each time.
        let earlier = written[..index]
            .iter()
            .any(|(earlier, _)| earlier.address == address);
        if earlier && address.0.port() != 0 {
            let problem = Problem::ListenerTwice { address };
            return Err(ConfigError::new(place.clone(), problem));
        }
    }
    Ok(written)
}

pub(super) fn admin(
    flags: &Flags,
    file: Option<&ConfigFile>,
) -> Result<Option<ListenAddress>, ConfigError> {
    let in_file = file.and_then(|file| Some((file, file.written().admin.as_ref()?)));
    let (address, place) = match (flags.admin, in_file) {
        (Some(address), _) => (address, Place::Flag("--admin")),
        (None, Some((file, written))) => {
            let place = file.place(written);
            match written.get_ref().parse() {
                Ok(address) => (address, place),
                Err(error) => return Err(ConfigError::new(place, Problem::Value(error))),
            }
        }
        (None, None) => return Ok(None),
    };
    if address.is_loopback() {
        Ok(Some(address))
    } else {
        Err(ConfigError::new(place, Problem::AdminReachable { address }))
    }
}
