//! The first packet of a server (`Protocol::HandshakeV10`).

use super::error::ServerError;

/// No server's greeting comes near this many bytes.
pub(super) const GREETING_LEN_MAX: usize = 4 << 10;

/// No packet of a login comes near this many bytes; public keys are the largest.
pub(super) const LOGIN_PACKET_LEN_MAX: usize = 16 << 10;

/// `CLIENT_SSL`: the server can switch to TLS.
pub(super) const CLIENT_SSL: u32 = 0x800;

/// Length of the nonce that passwords are scrambled with.
pub(super) const NONCE_LEN: usize = 20;

/// What a server says of itself before anybody logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    /// Its version, as it calls itself.
    pub(super) version: String,
    /// What it can do: `CLIENT_…` bits.
    pub(super) capabilities: u32,
    /// Where the lower half of the capabilities is in the packet.
    pub(super) capabilities_at: usize,
    /// The nonce for the password.
    pub(super) nonce: [u8; NONCE_LEN],
    /// The authentication plugin it begins with.
    pub(super) plugin: String,
}

impl Greeting {
    /// Reads the packet, or the error that a server greets unwelcome hosts with.
    pub(super) fn parse(packet: &[u8], address: &str, user: &str) -> Result<Self, ServerError> {
        if packet.first() == Some(&0xff) {
            return Err(server_error(packet, address, user, "connect"));
        }
        Self::parse_v10(packet).ok_or_else(|| ServerError::Protocol {
            address: address.to_owned(),
            what: "greeting is not protocol version 10".to_owned(),
        })
    }

    fn parse_v10(packet: &[u8]) -> Option<Self> {
        let rest = packet.strip_prefix(&[10])?;
        let version_len = rest.iter().position(|b| *b == 0)?;
        let version = String::from_utf8_lossy(rest.get(..version_len)?).into_owned();
        // Connection id (4), first part of the nonce (8), filler (1), capabilities (2).
        let rest = rest.get(version_len + 1 + 4..)?;
        let (nonce_start, rest) = rest.split_first_chunk::<8>()?;
        let rest = rest.get(1..)?;
        let capabilities_at = packet.len() - rest.len();
        let (lower, rest) = rest.split_first_chunk::<2>()?;
        // Collation (1), status (2), upper half of the capabilities (2), nonce length (1), reserved (10).
        let (upper, rest) = rest.get(3..)?.split_first_chunk::<2>()?;
        let (nonce_end, rest) = rest.get(11..)?.split_first_chunk::<12>()?;
        let mut nonce = [0; NONCE_LEN];
        nonce.first_chunk_mut::<8>()?.copy_from_slice(nonce_start);
        nonce.last_chunk_mut::<12>()?.copy_from_slice(nonce_end);
        let plugin = rest.get(1..)?.split(|b| *b == 0).next()?;
        Some(Self {
            version: version.chars().filter(|c| !c.is_control()).take(80).collect(),
            capabilities: u32::from(u16::from_le_bytes(*lower)) | u32::from(u16::from_le_bytes(*upper)) << 16,
            capabilities_at,
            nonce,
            plugin: String::from_utf8_lossy(plugin).chars().filter(|c| !c.is_control()).take(80).collect(),
        })
    }
}

/// The error in an ERR packet: `ff`, code, and after login has begun `#` and a 5-character state.
pub(super) fn server_error(packet: &[u8], address: &str, user: &str, statement: &str) -> ServerError {
    let Some(([low, high], message)) = packet.get(1..).and_then(<[u8]>::split_first_chunk::<2>) else {
        return ServerError::Protocol { address: address.to_owned(), what: "error packet is cut short".to_owned() };
    };
    let message = match message {
        [b'#', _, _, _, _, _, text @ ..] => text,
        text => text,
    };
    let code = u16::from_le_bytes([*low, *high]);
    ServerError::from_server(code, &String::from_utf8_lossy(message), address, user, statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Vec<u8> {
        let mut packet = b"\x0a9.7.4\0\x08\0\0\0abcdefgh\0".to_vec();
        packet.extend_from_slice(&[0xff, 0xff, 0xff, 2, 0, 0xff, 0xdf, 21]);
        packet.extend_from_slice(&[0; 10]);
        packet.extend_from_slice(b"ijklmnopqrst\0caching_sha2_password\0");
        packet
    }

    #[test]
    fn a_greeting_is_read() {
        let read = Greeting::parse(&greeting(), "db", "hw").unwrap();
        assert_eq!((read.version.as_str(), read.plugin.as_str()), ("9.7.4", "caching_sha2_password"));
        assert_eq!(&read.nonce, b"abcdefghijklmnopqrst");
        assert_eq!((read.capabilities, read.capabilities & CLIENT_SSL), (0xdfff_ffff, CLIENT_SSL));
        assert_eq!(greeting()[read.capabilities_at..][..2], [0xff, 0xff]);
    }

    #[test]
    fn a_greeting_cut_anywhere_is_an_error() {
        let whole = greeting();
        // The plugin's name ends the packet, with or without its NUL.
        let needed = whole.len() - "caching_sha2_password\0".len();
        for len in 0..needed {
            assert!(matches!(Greeting::parse(&whole[..len], "db", "hw"), Err(ServerError::Protocol { .. })), "{len}");
        }
    }

    #[test]
    fn an_error_instead_of_a_greeting_is_the_servers() {
        let packet = b"\xff\x6a\x04Host 'x' is not allowed to connect to this MySQL server";
        assert!(matches!(Greeting::parse(packet, "db", "hw"), Err(ServerError::AccessDenied { code: 1130, .. })));
        assert!(matches!(Greeting::parse(b"\xff\x10\x04", "db", "hw"), Err(ServerError::Statement { code: 1040, .. })));
        assert!(matches!(Greeting::parse(b"\xff", "db", "hw"), Err(ServerError::Protocol { .. })));
    }
}
