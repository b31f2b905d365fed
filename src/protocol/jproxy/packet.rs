//! What is in packets: `[JPROXY]`, "Data Tunnelling", and ICMP as `docs/protocols/jproxy.md` has
//! it.
//!
//! ```text
//! client                                        server
//!   connect    1  id, port, address   ─────▶
//!                                     ◀─────    1  id, status, milliseconds
//!   data      21  id, length, bytes   ◀────▶   21  the same
//!   end       41  id, reason          ◀────▶   41  the same
//!   associate  2  id, local port, port, address  ─────▶
//!                                     ◀─────    2  id, status, local port
//!   datagram  22  id, length, bytes   ◀────▶   22  the same
//!   end       42  id                  ─────▶
//!   associate  3  id, address         ─────▶
//!                                     ◀─────    3  id, status
//!   echo      23  id, sequence, length, bytes  ◀────▶   23  the same
//!   end       43  id                  ─────▶
//! ```
//!
//! What follows a packet's last field is not looked at: the programs that exist pad some of theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use super::dialect::{BindStatus, ConnectStatus, Dialect, EndReason, Opcode};
use crate::protocol::socks5::{Destination, Host};

const IPV4: u8 = 1;
const IPV6: u8 = 2;
const NAME: u8 = 3;

/// A channel's number, which the client chooses. Those of TCP, UDP and ICMP do not meet.
pub type ChannelId = u16;

/// What a channel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    Tcp,
    Udp,
    Icmp,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient<'a> {
    /// Connect there by TCP.
    Connect(ChannelId, Destination),
    Data(ChannelId, &'a [u8]),
    End(ChannelId, EndReason),
    /// Exchange datagrams with it, from a local port, or from any if that is 0.
    Associate {
        id: ChannelId,
        local_port: u16,
        with: Destination,
    },
    Datagram(ChannelId, &'a [u8]),
    EndDatagrams(ChannelId),
    /// Send echo requests there.
    AssociateEchoes(ChannelId, Host),
    Echo {
        id: ChannelId,
        sequence: u16,
        data: &'a [u8],
    },
    EndEchoes(ChannelId),
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer<'a> {
    /// What became of a connection, and how long that took: 65,535 where nothing was tried.
    Connected {
        id: ChannelId,
        status: ConnectStatus,
        took_ms: u16,
    },
    Data(ChannelId, &'a [u8]),
    End(ChannelId, EndReason),
    /// What became of an association, and from which port its datagrams are sent.
    Associated {
        id: ChannelId,
        status: BindStatus,
        local_port: u16,
    },
    Datagram(ChannelId, &'a [u8]),
    AssociatedEchoes(ChannelId, BindStatus),
    Echo {
        id: ChannelId,
        sequence: u16,
        data: &'a [u8],
    },
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// A packet without anything, which programs pass over.
    #[error("an empty packet")]
    Empty,
    #[error("no packet begins with {opcode:#04x}")]
    Opcode { opcode: u8 },
    /// Of a packet that the other dialect has.
    #[error("{opcode:#04x} is of the dialect \"{}\"", .dialect.as_str())]
    OtherDialect { dialect: Dialect, opcode: u8 },
    /// It is shorter than it says, or than its kind is.
    #[error("a packet of kind {opcode:#04x} is cut short")]
    Short { opcode: u8 },
    /// Where it wants to go is nowhere; it can be answered.
    #[error("no address: type {address_type}, {bytes} bytes")]
    Address {
        kind: ChannelKind,
        id: ChannelId,
        address_type: u8,
        bytes: u8,
    },
    /// Only the other side sends these.
    #[error("a packet of kind {opcode:#04x} has no place here")]
    Misplaced { opcode: u8 },
}

/// Reads the fields of one packet.
struct Fields<'a> {
    dialect: Dialect,
    opcode: u8,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Of a packet, and what it is about.
    fn of(packet: &'a [u8], dialect: Dialect) -> Result<(Opcode, Self), PacketError> {
        let (&opcode, bytes) = packet.split_first().ok_or(PacketError::Empty)?;
        let fields = Self {
            dialect,
            opcode,
            bytes,
        };
        match dialect.opcode(opcode) {
            Some(known) => Ok((known, fields)),
            None if dialect.other().opcode(opcode).is_some() => {
                let dialect = dialect.other();
                Err(PacketError::OtherDialect { dialect, opcode })
            }
            None => Err(PacketError::Opcode { opcode }),
        }
    }

    const fn short(&self) -> PacketError {
        let opcode = self.opcode;
        PacketError::Short { opcode }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(self.short())?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, PacketError> {
        let [byte] = self.take()?;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u16, PacketError> {
        Ok(self.dialect.number(self.take()?))
    }

    /// Bytes behind their length.
    fn data(&mut self) -> Result<&'a [u8], PacketError> {
        let length = usize::from(self.number()?);
        self.bytes.get(..length).ok_or(self.short())
    }

    fn host(&mut self, kind: ChannelKind, id: ChannelId) -> Result<Host, PacketError> {
        let (address_type, length) = (self.byte()?, self.byte()?);
        let bytes = self.bytes.get(..usize::from(length));
        let bytes = bytes.ok_or(self.short())?;
        let host = match address_type {
            IPV4 => <[u8; 4]>::try_from(bytes)
                .ok()
                .map(|octets| Host::Address(Ipv4Addr::from(octets).into())),
            IPV6 => <[u8; 16]>::try_from(bytes)
                .ok()
                .map(|octets| Host::Address(Ipv6Addr::from(octets).into())),
            NAME => str::from_utf8(bytes)
                .ok()
                .and_then(|name| Destination::named(name, 0).ok())
                .map(|destination| destination.host),
            _ => None,
        };
        host.ok_or(PacketError::Address {
            kind,
            id,
            address_type,
            bytes: length,
        })
    }

    const fn misplaced<T>(&self) -> Result<T, PacketError> {
        let opcode = self.opcode;
        Err(PacketError::Misplaced { opcode })
    }
}

/// Appends fields of one packet.
struct Writer<'a> {
    dialect: Dialect,
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn begin(&mut self, opcode: Opcode, id: ChannelId) -> &mut Self {
        self.out.push(self.dialect.opcode_byte(opcode));
        self.number(id);
        self
    }

    fn number(&mut self, number: u16) {
        self.out.extend_from_slice(&self.dialect.bytes(number));
    }

    /// The length of data that follows, and the data.
    fn length<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let length = u16::try_from(data.len());
        debug_assert!(length.is_ok(), "a packet is shorter");
        self.number(length.unwrap_or(u16::MAX));
        data
    }

    fn end(&mut self, id: ChannelId, reason: EndReason) {
        let byte = self.dialect.end_reason_byte(reason);
        self.begin(Opcode::TcpEnd, id).out.push(byte);
    }

    fn echo<'d>(&mut self, id: ChannelId, sequence: u16, data: &'d [u8]) -> &'d [u8] {
        let writer = self.begin(Opcode::IcmpEcho, id);
        writer.number(sequence);
        writer.length(data)
    }

    fn host(&mut self, host: &Host) {
        let mut address = |kind: u8, bytes: &[u8]| {
            let length = u8::try_from(bytes.len());
            debug_assert!(length.is_ok(), "a name has at most 255 bytes");
            self.out
                .extend_from_slice(&[kind, length.unwrap_or(u8::MAX)]);
            self.out.extend_from_slice(bytes);
        };
        match host {
            Host::Address(IpAddr::V4(ip)) => address(IPV4, &ip.octets()),
            Host::Address(IpAddr::V6(ip)) => address(IPV6, &ip.octets()),
            Host::Name(name) => address(NAME, name.as_bytes()),
        }
    }
}

impl<'a> FromClient<'a> {
    /// Decodes the content of one packet.
    ///
    /// # Errors
    ///
    /// When it is none that a client sends.
    pub fn decode(packet: &'a [u8], dialect: Dialect) -> Result<Self, PacketError> {
        let (opcode, mut fields) = Fields::of(packet, dialect)?;
        let id = fields.number()?;
        Ok(match opcode {
            Opcode::TcpConnect => {
                let port = fields.number()?;
                let host = fields.host(ChannelKind::Tcp, id)?;
                Self::Connect(id, Destination { host, port })
            }
            Opcode::TcpData => Self::Data(id, fields.data()?),
            Opcode::TcpEnd => Self::End(id, dialect.end_reason(fields.byte()?)),
            Opcode::UdpAssociate => {
                let (local_port, port) = (fields.number()?, fields.number()?);
                let host = fields.host(ChannelKind::Udp, id)?;
                Self::Associate {
                    id,
                    local_port,
                    with: Destination { host, port },
                }
            }
            Opcode::UdpData => Self::Datagram(id, fields.data()?),
            Opcode::UdpEnd => Self::EndDatagrams(id),
            Opcode::IcmpAssociate => Self::AssociateEchoes(id, fields.host(ChannelKind::Icmp, id)?),
            Opcode::IcmpEcho => Self::Echo {
                id,
                sequence: fields.number()?,
                data: fields.data()?,
            },
            Opcode::IcmpEnd => Self::EndEchoes(id),
        })
    }

    /// Appends what stands in the packet before its data, and gives the data.
    pub fn encode_head(&self, dialect: Dialect, out: &mut Vec<u8>) -> &'a [u8] {
        let mut writer = Writer { dialect, out };
        match self {
            Self::Connect(id, destination) => {
                let writer = writer.begin(Opcode::TcpConnect, *id);
                writer.number(destination.port);
                writer.host(&destination.host);
            }
            Self::Data(id, data) => return writer.begin(Opcode::TcpData, *id).length(data),
            Self::End(id, reason) => writer.end(*id, *reason),
            Self::Associate {
                id,
                local_port,
                with,
            } => {
                let writer = writer.begin(Opcode::UdpAssociate, *id);
                writer.number(*local_port);
                writer.number(with.port);
                writer.host(&with.host);
            }
            Self::Datagram(id, data) => return writer.begin(Opcode::UdpData, *id).length(data),
            Self::EndDatagrams(id) => {
                writer.begin(Opcode::UdpEnd, *id);
            }
            Self::AssociateEchoes(id, host) => writer.begin(Opcode::IcmpAssociate, *id).host(host),
            Self::Echo { id, sequence, data } => return writer.echo(*id, *sequence, data),
            Self::EndEchoes(id) => {
                writer.begin(Opcode::IcmpEnd, *id);
            }
        }
        &[]
    }
}

impl<'a> FromServer<'a> {
    /// Decodes the content of one packet.
    ///
    /// # Errors
    ///
    /// When it is none that a server sends.
    pub fn decode(packet: &'a [u8], dialect: Dialect) -> Result<Self, PacketError> {
        let (opcode, mut fields) = Fields::of(packet, dialect)?;
        let id = fields.number()?;
        Ok(match opcode {
            Opcode::TcpConnect => Self::Connected {
                id,
                status: dialect.connect_status(fields.byte()?),
                took_ms: fields.number()?,
            },
            Opcode::TcpData => Self::Data(id, fields.data()?),
            Opcode::TcpEnd => Self::End(id, dialect.end_reason(fields.byte()?)),
            Opcode::UdpAssociate => Self::Associated {
                id,
                status: dialect.bind_status(fields.byte()?),
                local_port: fields.number()?,
            },
            Opcode::UdpData => Self::Datagram(id, fields.data()?),
            Opcode::IcmpAssociate => {
                Self::AssociatedEchoes(id, dialect.bind_status(fields.byte()?))
            }
            Opcode::IcmpEcho => Self::Echo {
                id,
                sequence: fields.number()?,
                data: fields.data()?,
            },
            Opcode::UdpEnd | Opcode::IcmpEnd => return fields.misplaced(),
        })
    }

    /// Appends what stands in the packet before its data, and gives the data.
    pub fn encode_head(&self, dialect: Dialect, out: &mut Vec<u8>) -> &'a [u8] {
        let mut writer = Writer { dialect, out };
        match self {
            Self::Connected {
                id,
                status,
                took_ms,
            } => {
                let writer = writer.begin(Opcode::TcpConnect, *id);
                writer.out.push(dialect.connect_status_byte(*status));
                writer.number(*took_ms);
            }
            Self::Data(id, data) => return writer.begin(Opcode::TcpData, *id).length(data),
            Self::End(id, reason) => writer.end(*id, *reason),
            Self::Associated {
                id,
                status,
                local_port,
            } => {
                let writer = writer.begin(Opcode::UdpAssociate, *id);
                writer.out.push(dialect.bind_status_byte(*status));
                writer.number(*local_port);
            }
            Self::Datagram(id, data) => return writer.begin(Opcode::UdpData, *id).length(data),
            Self::AssociatedEchoes(id, status) => {
                writer
                    .begin(Opcode::IcmpAssociate, *id)
                    .out
                    .push(dialect.bind_status_byte(*status));
            }
            Self::Echo { id, sequence, data } => return writer.echo(*id, *sequence, data),
        }
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECTS: [Dialect; 2] = [Dialect::Spec, Dialect::Original];

    fn destination(host: &str, port: u16) -> Destination {
        Destination::named(host, port).expect("a destination")
    }

    fn encoded(encode: impl FnOnce(&mut Vec<u8>) -> Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        let data = encode(&mut out);
        out.extend_from_slice(&data);
        out
    }

    #[test]
    fn what_a_client_sends_is_read_as_it_was_meant() {
        let data = b"some bytes";
        for packet in [
            FromClient::Connect(0x0102, destination("127.0.0.1", 80)),
            FromClient::Connect(3, destination("::1", 443)),
            FromClient::Connect(0xfffe, destination("example.com", 8080)),
            FromClient::Data(7, data),
            FromClient::Data(7, b""),
            FromClient::End(7, EndReason::Finished),
            FromClient::Associate {
                id: 7,
                local_port: 1,
                with: destination("192.0.2.1", 53),
            },
            FromClient::Datagram(7, data),
            FromClient::EndDatagrams(7),
            FromClient::AssociateEchoes(7, destination("localhost", 0).host),
            FromClient::Echo {
                id: 7,
                sequence: 0x0102,
                data,
            },
            FromClient::EndEchoes(7),
        ] {
            for dialect in DIALECTS {
                let bytes = encoded(|out| packet.encode_head(dialect, out).to_vec());
                check_cuts(&bytes, |bytes| FromClient::decode(bytes, dialect).map(drop));
                // The Java client pads.
                let padded = [&bytes[..], b"\0"].concat();
                assert_eq!(FromClient::decode(&padded, dialect), Ok(packet.clone()));
                // In the other dialect it is read, though perhaps not as it was meant, or known.
                let other = FromClient::decode(&bytes, dialect.other());
                let is_known = match packet {
                    FromClient::Connect(..)
                    | FromClient::Associate { .. }
                    | FromClient::AssociateEchoes(..) => other.is_ok(),
                    _ => matches!(other, Err(PacketError::OtherDialect { .. })),
                };
                assert!(is_known, "{other:?}");
            }
        }
    }

    #[test]
    fn what_a_server_sends_is_read_as_it_was_meant() {
        let data = b"some bytes";
        for packet in [
            FromServer::Connected {
                id: 7,
                status: ConnectStatus::Refused,
                took_ms: 0x0102,
            },
            FromServer::Data(7, data),
            FromServer::End(7, EndReason::Finished),
            FromServer::Associated {
                id: 7,
                status: BindStatus::PortTaken,
                local_port: 0x0102,
            },
            FromServer::Datagram(7, data),
            FromServer::AssociatedEchoes(7, BindStatus::Denied),
            FromServer::Echo {
                id: 7,
                sequence: 0x0102,
                data,
            },
        ] {
            for dialect in DIALECTS {
                let bytes = encoded(|out| packet.encode_head(dialect, out).to_vec());
                check_cuts(&bytes, |bytes| FromServer::decode(bytes, dialect).map(drop));
                let padded = [&bytes[..], b"\0"].concat();
                assert_eq!(FromServer::decode(&padded, dialect), Ok(packet.clone()));
            }
        }
    }

    /// No part of a packet is one.
    #[track_caller]
    fn check_cuts(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<(), PacketError>) {
        assert_eq!(decode(&[]), Err(PacketError::Empty));
        let opcode = bytes[0];
        for cut in 1..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Err(PacketError::Short { opcode }));
        }
        assert_eq!(decode(bytes), Ok(()));
    }

    #[test]
    fn wrong_packets_say_what_is_wrong() {
        let check = |bytes: &[u8], dialect, expected| {
            assert_eq!(FromClient::decode(bytes, dialect), Err(expected));
        };
        let (spec, original) = (Dialect::Spec, Dialect::Original);
        let opcode = 0x77;
        check(b"\x77\0\0", spec, PacketError::Opcode { opcode });
        let (dialect, opcode) = (original, 0x21);
        let hint = PacketError::OtherDialect { dialect, opcode };
        check(b"\x21\0\0\0\0", spec, hint);
        assert!(hint.to_string().contains("dialect \"original\""));
        let (dialect, opcode) = (spec, 21);
        let hint = PacketError::OtherDialect { dialect, opcode };
        check(b"\x15\0\0\0\0", original, hint);
        for (bytes, address_type, length) in [
            (&b"\x01\x07\0\x50\0\x01\x03\x7f\0\0"[..], 1, 3),
            (b"\x01\x07\0\x50\0\x09\x01a", 9, 1),
            (b"\x01\x07\0\x50\0\x03\0", 3, 0),
            (b"\x01\x07\0\x50\0\x03\x01\xff", 3, 1),
        ] {
            let nowhere = PacketError::Address {
                kind: ChannelKind::Tcp,
                id: 7,
                address_type,
                bytes: length,
            };
            check(bytes, spec, nowhere);
        }
        let misplaced = FromServer::decode(b"\x2a\x07\0", spec);
        assert_eq!(misplaced, Err(PacketError::Misplaced { opcode: 42 }));
    }
}
