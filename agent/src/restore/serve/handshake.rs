//! The login of a replica: handshake v10, TLS, `caching_sha2_password`.
//!
//! The server knows the password, so it checks the 32-byte answer directly: neither an RSA exchange nor a cached hash
//! is needed, with or without TLS (`sql/auth/sha2_password.cc`).

use std::io;
use std::sync::Arc;

use mysql_common::scramble::scramble_sha256;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::ServeError;
use super::packet::{Fields, PacketStream};
use crate::secret::Password;

/// A connection, with or without TLS.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

const PLUGIN: &str = "caching_sha2_password";

/// Bits of `include/mysql_com.h` that matter to a login.
mod capability {
    pub(super) const CONNECT_WITH_DB: u32 = 1 << 3;
    pub(super) const PROTOCOL_41: u32 = 1 << 9;
    pub(super) const SSL: u32 = 1 << 11;
    pub(super) const TRANSACTIONS: u32 = 1 << 13;
    pub(super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(super) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(super) const CONNECT_ATTRS: u32 = 1 << 20;
    pub(super) const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
    /// `LONG_PASSWORD | LONG_FLAG`
    pub(super) const LONG: u32 = 1 | 1 << 2;
}

/// What we can do. Without `DEPRECATE_EOF`: results end with EOF packets, which every client reads.
const OURS: u32 = capability::LONG
    | capability::CONNECT_WITH_DB
    | capability::PROTOCOL_41
    | capability::SSL
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::PLUGIN_AUTH
    | capability::CONNECT_ATTRS
    | capability::PLUGIN_AUTH_LENENC;

/// `SERVER_STATUS_AUTOCOMMIT`
pub(super) const STATUS_AUTOCOMMIT: u16 = 2;
/// An OK packet in answer to a login or command: no rows, no id, autocommit, no warnings.
pub(super) const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];
/// The longest packet before the login is proven.
const LOGIN_PACKET_MAX: usize = 16 * 1024;
/// "Fast authentication succeeded" of `caching_sha2_password`.
const FAST_AUTH_OK: [u8; 2] = [1, 3];
/// `utf8mb4_0900_ai_ci`
const COLLATION: u8 = 255;

/// The one account that may log in.
#[derive(Debug, Clone)]
pub struct ReplicaAccount {
    /// User name.
    pub user: String,
    /// Password.
    pub password: Password,
}

/// A TLS configuration with a certificate made for this process alone. The replica cannot verify it: the password
/// proves the replica to us, and nothing but the operator's network proves us to the replica.
pub(super) fn self_signed_tls() -> Result<TlsAcceptor, ServeError> {
    let certified = rcgen::generate_simple_self_signed(vec!["highwater".to_owned()])
        .map_err(|error| ServeError::Certificate(error.to_string()))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key))
        .map_err(|error| ServeError::Certificate(error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Greets a client and lets it in, or tells it why not.
pub(super) async fn login(
    tcp: TcpStream,
    tls: &TlsAcceptor,
    account: &ReplicaAccount,
    server_version: &str,
    connection_id: u32,
) -> Result<PacketStream<Box<dyn Wire>>, ServeError> {
    let nonce = nonce();
    let mut plain = PacketStream::new(tcp, 0);
    plain.write(&greeting(server_version, connection_id, &nonce)).await?;
    let mut answer = plain.read(LOGIN_PACKET_MAX).await?;
    let (tcp, sequence) = plain.into_parts();
    let mut packets: PacketStream<Box<dyn Wire>> = if wants_tls(&answer) {
        let encrypted = tls.accept(tcp).await?;
        let mut packets = PacketStream::new(Box::new(encrypted) as Box<dyn Wire>, sequence);
        answer = packets.read(LOGIN_PACKET_MAX).await?;
        packets
    } else {
        PacketStream::new(Box::new(tcp), sequence)
    };
    let Some(claim) = LoginClaim::read(&answer) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed handshake response").into());
    };
    let mut proof = claim.proof.to_vec();
    if claim.plugin != PLUGIN.as_bytes() {
        let mut switch = vec![0xfe];
        switch.extend_from_slice(PLUGIN.as_bytes());
        switch.push(0);
        switch.extend_from_slice(&nonce);
        switch.push(0);
        packets.write(&switch).await?;
        proof = packets.read(LOGIN_PACKET_MAX).await?;
    }
    let expected = scramble_sha256(&nonce, account.password.expose().as_bytes());
    let proven = expected.is_some_and(|expected| bool::from(expected.as_slice().ct_eq(&proof)));
    if !proven || claim.user != account.user.as_bytes() {
        packets.write(&error_packet(1045, *b"28000", "access denied: not this restore's replica")).await?;
        return Err(ServeError::AccessDenied);
    }
    packets.write(&FAST_AUTH_OK).await?;
    packets.write(&OK).await?;
    Ok(packets)
}

/// An error packet.
pub(super) fn error_packet(code: u16, state: [u8; 5], message: &str) -> Vec<u8> {
    let mut packet = vec![0xff];
    packet.extend_from_slice(&code.to_le_bytes());
    packet.push(b'#');
    packet.extend_from_slice(&state);
    packet.extend_from_slice(message.as_bytes());
    packet
}

/// 20 random bytes, none of them NUL or `$`, both of which clients treat specially.
fn nonce() -> [u8; 20] {
    let mut nonce = [0u8; 20];
    for byte in &mut nonce {
        *byte = loop {
            let candidate: u8 = rand::random_range(1..128);
            if candidate != b'$' {
                break candidate;
            }
        };
    }
    nonce
}

fn greeting(server_version: &str, connection_id: u32, nonce: &[u8; 20]) -> Vec<u8> {
    let [low0, low1, high0, high1] = OURS.to_le_bytes();
    let (first, second) = nonce.split_at(8);
    let mut packet = vec![10];
    packet.extend_from_slice(server_version.as_bytes());
    packet.push(0);
    packet.extend_from_slice(&connection_id.to_le_bytes());
    packet.extend_from_slice(first);
    packet.push(0);
    packet.extend_from_slice(&[low0, low1, COLLATION]);
    packet.extend_from_slice(&STATUS_AUTOCOMMIT.to_le_bytes());
    packet.extend_from_slice(&[high0, high1, 21]);
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(second);
    packet.push(0);
    packet.extend_from_slice(PLUGIN.as_bytes());
    packet.push(0);
    packet
}

/// Whether this is an SSLRequest: the 32 bytes before the user name, with the SSL bit.
fn wants_tls(answer: &[u8]) -> bool {
    answer.len() == 32 && Fields::new(answer).u32().is_some_and(|flags| flags & capability::SSL != 0)
}

/// HandshakeResponse41, as far as it matters.
struct LoginClaim<'a> {
    user: &'a [u8],
    proof: &'a [u8],
    plugin: &'a [u8],
}

impl<'a> LoginClaim<'a> {
    fn read(answer: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(answer);
        let flags = fields.u32()?;
        fields.bytes(4 + 1 + 23)?;
        let user = fields.until_nul();
        let proof = if flags & capability::PLUGIN_AUTH_LENENC != 0 {
            fields.len_encoded()?
        } else {
            let len = fields.u8()?;
            fields.bytes(usize::from(len))?
        };
        if flags & capability::CONNECT_WITH_DB != 0 {
            fields.until_nul();
        }
        let plugin = if flags & capability::PLUGIN_AUTH != 0 { fields.until_nul() } else { b"" };
        Some(Self { user, proof, plugin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_has_neither_nul_nor_dollar() {
        for _ in 0..200 {
            assert!(nonce().iter().all(|b| *b != 0 && *b != b'$' && *b < 128));
        }
    }

    #[test]
    fn truncated_login_is_not_a_claim() {
        let whole = [&OURS.to_le_bytes()[..], &[0; 28], b"highwater\0", &[3, 1, 2, 3], b"\0", PLUGIN.as_bytes(), b"\0"];
        let whole = whole.concat();
        let claim = LoginClaim::read(&whole).unwrap();
        assert_eq!((claim.user, claim.proof, claim.plugin), (&b"highwater"[..], &[1, 2, 3][..], PLUGIN.as_bytes()));
        assert!(LoginClaim::read(&whole[..44]).is_none());
    }
}
