//! `jproxy_keys`: the files of users and of clients' keys.

use midspan::access::jproxy::{ClientKey, TunnelUser, UserFileError};
use midspan::protocol::jproxy::SessionKey;

const KEY: SessionKey = SessionKey([7; 16]);

pub(crate) fn run(data: &[u8]) {
    check_user(data);
    if let Ok(client) = ClientKey::decode(data) {
        assert_eq!(data.last_chunk(), Some(client.hash()));
        assert!(ClientKey::decode(&data[..data.len() - 1]).is_err());
        // Whatever it is, it gives a key.
        let _: SessionKey = client.decrypt(&[1; 256]);
    }
}

/// Whatever it holds, it has one name, and under that it is a user's.
fn check_user(data: &[u8]) {
    let other = format!("{}.dat", "0".repeat(64));
    let Err(error) = TunnelUser::decode(&other, data) else {
        panic!("a hash of nothing but zeros");
    };
    let UserFileError::OtherHash { content } = error else {
        return;
    };
    let digits: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{digits}.dat");
    let user = TunnelUser::decode(&name, data).expect("its own name");
    assert_eq!(*user.hash(), content);
    assert!((1..=64).contains(&user.name().chars().count()));
    assert!(
        !user
            .name()
            .contains(|c: char| c.is_whitespace() || c.is_control() || c == ':')
    );
    assert!(user.encrypt(&KEY).is_ok());
    for cut in [data.len() - 1, data.len() / 2] {
        assert!(TunnelUser::decode(&name, &data[..cut]).is_err());
    }
}
