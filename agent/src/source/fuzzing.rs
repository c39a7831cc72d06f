//! Arbitrary bytes to everything here that reads what a server sent.

use futures_util::FutureExt;

use super::auth;
use super::greeting::{Greeting, server_error};
use super::packet::PacketIo;
use super::stream::{Content, Prefix, announced_len};

/// Packets are read up to this length.
const LIMIT: usize = 1 << 20;

/// Packets one after the other.
pub(crate) fn packets(bytes: &[u8]) {
    let mut io = PacketIo::new(bytes);
    let mut payload = Vec::new();
    while let Some(Ok(())) = io.read(&mut payload, LIMIT).now_or_never() {
        assert!(payload.len() <= LIMIT);
    }
    assert!(payload.capacity() <= LIMIT * 2, "{} bytes for {}", payload.capacity(), bytes.len());
}

/// A greeting.
pub(crate) fn greeting(bytes: &[u8]) {
    match Greeting::parse(bytes, "source:3306", "agent") {
        Ok(greeting) => {
            assert!(greeting.capabilities_at + 1 < bytes.len());
            assert!(!greeting.version.contains(char::is_control) && !greeting.plugin.contains(char::is_control));
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

/// A request to switch the authentication plug-in, after its first byte.
pub(crate) fn auth_switch(bytes: &[u8]) {
    if let Err(plugin) = auth::auth_switch(bytes) {
        assert!(!plugin.contains(char::is_control));
    }
}

/// An error packet.
pub(crate) fn error_packet(bytes: &[u8]) {
    let error = server_error(bytes, "source:3306", "agent", "test");
    assert!(!error.to_string().contains(char::is_control));
    let _ = (error.hint(), error.retry());
}

/// A stream with and without semi-sync.
pub(crate) fn stream(bytes: &[u8]) {
    for mut prefix in [Prefix::Undecided, Prefix::Absent] {
        let mut io = PacketIo::new(bytes);
        let mut packet = Vec::new();
        loop {
            let packet = if io.has_packet() {
                io.take_arrived().unwrap_or_default()
            } else {
                let Some(Ok(())) = io.read_within(&mut packet, LIMIT, announced_len).now_or_never() else { break };
                &packet
            };
            match Content::of(packet, &mut prefix) {
                Content::Event(event) => assert!(event.bytes.len() < packet.len()),
                Content::Error => error_packet(packet),
                Content::End | Content::Broken(_) => break,
            }
        }
    }
}
