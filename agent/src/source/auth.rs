//! Logging in with our own client: `caching_sha2_password` and `mysql_native_password`, never a password in the clear.
//!
//! No `CLIENT_LOCAL_FILES`: a server that asks for a file of ours gets none.

use std::io;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use mysql_common::scramble::{scramble_native, scramble_sha256};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::error::ServerError;
use super::greeting::{CLIENT_SSL, GREETING_LEN_MAX, Greeting, LOGIN_PACKET_LEN_MAX, NONCE_LEN, server_error};
use super::packet::PacketIo;
use super::tls;
use super::transport::Transport;
use crate::server::{ServerAddress, ServerLogin, TlsMode};

/// `CLIENT_LONG_PASSWORD | LONG_FLAG | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH`. Without
/// `DEPRECATE_EOF`, so that answers have the old, simple form.
const CAPABILITIES: u32 = 0x1 | 0x4 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;

/// The largest packet we say we take: what `max_allowed_packet` ends at.
const PACKET_LEN_MAX: u32 = 1 << 30;

/// `utf8mb4_general_ci`
const COLLATION: u8 = 45;

/// Switching plugins once is part of the protocol; a server that asks again goes in circles.
const SWITCHES_MAX: u32 = 1;

/// Ways to prove a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plugin {
    CachingSha2,
    Native,
}

impl Plugin {
    fn named(name: &str) -> Option<Self> {
        [Self::CachingSha2, Self::Native].into_iter().find(|plugin| plugin.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::CachingSha2 => "caching_sha2_password",
            Self::Native => "mysql_native_password",
        }
    }

    fn response(self, password: &[u8], nonce: &[u8; NONCE_LEN]) -> Vec<u8> {
        match self {
            Self::CachingSha2 => scramble_sha256(nonce, password).map(Vec::from),
            Self::Native => scramble_native(nonce, password).map(Vec::from),
        }
        .unwrap_or_default()
    }
}

/// Connects, secures the connection as the policy asks, and logs in.
pub(super) async fn log_in(login: &ServerLogin) -> Result<PacketIo<Transport>, ServerError> {
    let address = login.address.to_string();
    let mut client = Login { io: PacketIo::new(Transport::open(&login.address).await?), login, address };
    let mut packet = Vec::new();
    client.read(&mut packet, GREETING_LEN_MAX).await?;
    let greeting = Greeting::parse(&packet, &client.address, &login.user)?;
    let client = client.secure(&greeting).await?;
    client.prove(&greeting).await
}

struct Login<'a> {
    io: PacketIo<Transport>,
    login: &'a ServerLogin,
    address: String,
}

impl Login<'_> {
    async fn secure(mut self, greeting: &Greeting) -> Result<Self, ServerError> {
        let host = match (&self.login.address, self.login.tls.mode) {
            (ServerAddress::Socket(_), _) | (_, TlsMode::DangerDisabled) => return Ok(self),
            (
                ServerAddress::Tcp { host, .. },
                TlsMode::VerifyIdentity | TlsMode::VerifyCa | TlsMode::DangerNoVerify,
            ) => host,
        };
        if greeting.capabilities & CLIENT_SSL == 0 {
            return Err(ServerError::TlsUnsupported { address: self.address });
        }
        self.write(&login_start(CAPABILITIES | CLIENT_SSL)).await?;
        let sequence = self.io.sequence();
        let Some(Transport::Tcp(stream)) = self.io.into_quiet_stream() else {
            return Err(ServerError::Protocol {
                address: self.address,
                what: "bytes between greeting and TLS".to_owned(),
            });
        };
        let stream = tls::connect(stream, host, &self.address, &self.login.tls).await?;
        self.io = PacketIo::resume(Transport::Tls(Box::new(stream)), sequence);
        Ok(self)
    }

    async fn prove(mut self, greeting: &Greeting) -> Result<PacketIo<Transport>, ServerError> {
        let password = self.login.password.as_ref().map_or("", |password| password.expose()).as_bytes();
        let mut nonce = greeting.nonce;
        // Another plugin of the server's choice is answered by its switch to the account's own.
        let mut plugin = Plugin::named(&greeting.plugin).unwrap_or(Plugin::CachingSha2);
        let secured = matches!(self.io.get_ref(), Transport::Tls(_));
        let mut reply = login_start(CAPABILITIES | if secured { CLIENT_SSL } else { 0 });
        reply.extend_from_slice(self.login.user.as_bytes());
        reply.push(0);
        let response = plugin.response(password, &nonce);
        reply.push(u8::try_from(response.len()).unwrap_or(0));
        reply.extend_from_slice(&response);
        reply.extend_from_slice(plugin.name().as_bytes());
        reply.push(0);
        self.write(&reply).await?;
        let mut switches = 0;
        let mut packet = Vec::new();
        loop {
            self.read(&mut packet, LOGIN_PACKET_LEN_MAX).await?;
            match packet.as_slice() {
                [0x00, ..] => return Ok(self.io),
                [0xff, ..] => return Err(server_error(&packet, &self.address, &self.login.user, "log in")),
                [0xfe, rest @ ..] => {
                    switches += 1;
                    (plugin, nonce) = auth_switch(rest).map_err(|name| self.unknown_plugin(name))?;
                    if switches > SWITCHES_MAX {
                        return Err(self.protocol("more than one switch of the authentication plugin"));
                    }
                    self.write(&plugin.response(password, &nonce)).await?;
                }
                // The server's cache knows the password: OK follows.
                [0x01, 0x03] if plugin == Plugin::CachingSha2 => {}
                // It does not, and wants the password itself.
                [0x01, 0x04] if plugin == Plugin::CachingSha2 => self.send_password(password, &nonce).await?,
                _ => return Err(self.protocol("unknown packet in the login")),
            }
        }
    }

    /// The password as text where nobody can read along, else encrypted with the server's RSA key.
    async fn send_password(&mut self, password: &[u8], nonce: &[u8; NONCE_LEN]) -> Result<(), ServerError> {
        let mut text = Zeroizing::new(Vec::with_capacity(password.len() + 1));
        text.extend_from_slice(password);
        text.push(0);
        if self.io.get_ref().is_private() {
            return self.write(&text).await;
        }
        self.write(&[0x02]).await?;
        let mut packet = Vec::new();
        self.read(&mut packet, LOGIN_PACKET_LEN_MAX).await?;
        let [0x01, pem @ ..] = packet.as_slice() else {
            return Err(match packet.first() {
                Some(0xff) => server_error(&packet, &self.address, &self.login.user, "log in"),
                _ => self.protocol("no public key where one was asked for"),
            });
        };
        for (byte, mask) in text.iter_mut().zip(nonce.iter().cycle()) {
            *byte ^= mask;
        }
        let sealed = encrypt(pem, &text).ok_or_else(|| self.protocol("public key is not usable"))?;
        self.write(&sealed).await
    }

    async fn read(&mut self, packet: &mut Vec<u8>, limit: usize) -> Result<(), ServerError> {
        self.io.read(packet, limit).await.map_err(|source| self.lost(source))
    }

    async fn write(&mut self, packet: &[u8]) -> Result<(), ServerError> {
        self.io.write(packet).await.map_err(|source| self.lost(source))
    }

    fn lost(&self, source: io::Error) -> ServerError {
        lost(&self.address, source)
    }

    fn protocol(&self, what: &str) -> ServerError {
        ServerError::Protocol { address: self.address.clone(), what: what.to_owned() }
    }

    fn unknown_plugin(&self, plugin: String) -> ServerError {
        ServerError::AuthPlugin { plugin }
    }
}

/// An I/O error of a connection; limits overrun are the peer's fault.
pub(super) fn lost(address: &str, source: io::Error) -> ServerError {
    match source.kind() {
        io::ErrorKind::InvalidData => ServerError::Protocol { address: address.to_owned(), what: source.to_string() },
        _ => ServerError::Lost { address: address.to_owned(), source },
    }
}

/// What a login and an SSL request begin with.
fn login_start(capabilities: u32) -> Vec<u8> {
    let mut packet = Vec::with_capacity(128);
    packet.extend_from_slice(&capabilities.to_le_bytes());
    packet.extend_from_slice(&PACKET_LEN_MAX.to_le_bytes());
    packet.push(COLLATION);
    packet.extend_from_slice(&[0; 23]);
    packet
}

/// Reads an `AuthSwitchRequest` after its first byte, or names the plugin that we do not speak.
pub(super) fn auth_switch(rest: &[u8]) -> Result<(Plugin, [u8; NONCE_LEN]), String> {
    if rest.is_empty() {
        return Err("mysql_old_password".to_owned());
    }
    let name_len = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let (name, data) = rest.split_at(name_len);
    let name: String = String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(80).collect();
    match (Plugin::named(&name), data.get(1..).and_then(<[u8]>::first_chunk::<NONCE_LEN>)) {
        (Some(plugin), Some(nonce)) => Ok((plugin, *nonce)),
        _ => Err(name),
    }
}

/// RSA-OAEP with SHA-1, as `sha2_password` of MySQL decrypts it. `None`: the key or the text do not fit.
fn encrypt(pem: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&key).ok()?).ok()?;
    let mut sealed = vec![0; key.ciphertext_size()];
    let sealed = key.encrypt(&OAEP_SHA1_MGF1SHA1, text, &mut sealed, None).ok()?;
    Some(sealed.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_to_a_clear_or_unknown_plugin_is_refused_by_name() {
        assert_eq!(auth_switch(b"mysql_clear_password\0").unwrap_err(), "mysql_clear_password");
        assert_eq!(auth_switch(b"").unwrap_err(), "mysql_old_password");
        assert_eq!(auth_switch(b"sha256_password\0abcdefghijklmnopqrst\0").unwrap_err(), "sha256_password");
        // A nonce too short to be one.
        assert!(auth_switch(b"mysql_native_password\0abc\0").is_err());
        let (plugin, nonce) = auth_switch(b"mysql_native_password\0abcdefghijklmnopqrst\0").unwrap();
        assert_eq!((plugin, &nonce), (Plugin::Native, b"abcdefghijklmnopqrst"));
    }

    #[test]
    fn a_server_key_that_is_none_is_refused() {
        assert!(encrypt(b"", b"x").is_none());
        assert!(encrypt(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"x").is_none());
    }

    #[test]
    fn local_files_are_not_among_the_capabilities() {
        const CLIENT_LOCAL_FILES: u32 = 0x80;
        assert_eq!(CAPABILITIES & CLIENT_LOCAL_FILES, 0);
    }
}
