//! Keys from a HashiCorp Vault, as Percona Server's `component_keyring_vault` and its plug-in before it store them
//! (`components/keyrings/keyring_vault` of Percona Server).
//!
//! A secret of the KV engine, version 1 or 2, for each key. Its name is the Base64 of `<length>_<key id><length>_<owner>`,
//! its `value` the Base64 of the key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use highwater_keyring::{KeyId, KeyRole, Keyring, MasterKey};
use serde::Deserialize;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};
use crate::keyring_file::read_secret_file;
use crate::keys::KeySource;

/// A list of keys has about 110 bytes for each; a secret is smaller still.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;
/// The component's own default, and the longest that it accepts.
const TIMEOUT_SECONDS: u64 = 15;
const TIMEOUT_SECONDS_MAX: u64 = 86_400;

/// `component_keyring_vault.cnf`. Numbers are texts in some versions.
#[derive(Deserialize)]
struct Config {
    vault_url: String,
    secret_mount_point: String,
    token: String,
    vault_ca: Option<PathBuf>,
    secret_mount_point_version: Option<serde_json::Value>,
    timeout: Option<serde_json::Value>,
    vault_namespace: Option<String>,
}

/// Where the secrets are, and how to ask.
struct Vault {
    agent: ureq::Agent,
    /// Without a slash at its end.
    url: String,
    token: Zeroizing<String>,
    namespace: Option<String>,
}

/// The paths of the KV engine's two versions.
struct Paths {
    list: String,
    data: String,
    nested: bool,
}

/// Reads the replication keys of the Vault that a configuration names.
pub(crate) fn read(config: &Path) -> Result<KeySource, Failure> {
    let parsed = parse_config(config)?;
    let place = format!("{}/{}", parsed.vault_url, parsed.secret_mount_point);
    let failed = |text: String| {
        Failure::new(Exit::Key, format!("vault {place}: {text}"))
            .hint("address, mount point and token are in the server's component_keyring_vault.cnf; `vault kv list` tries them")
    };
    let version = parsed.secret_mount_point_version.as_ref().map(text_of).unwrap_or_default();
    let mount = parsed.secret_mount_point.clone();
    let vault = Vault::new(parsed, config).map_err(failed)?;
    let paths = vault.paths(&mount, &version).map_err(failed)?;
    let keyring = vault.keyring(&paths).map_err(failed)?;
    Ok(KeySource { place, keyring, ..KeySource::default() })
}

fn parse_config(path: &Path) -> Result<Config, Failure> {
    let failed = |text: &str| Failure::new(Exit::Key, format!("vault configuration {}: {text}", path.display()));
    let bytes = read_secret_file(path).map_err(|error| failed(&error.to_string()))?;
    let bytes = bytes.ok_or_else(|| failed("no such file"))?;
    // The parser's own messages could quote the token.
    if bytes.trim_ascii_start().starts_with(b"{") {
        return serde_json::from_slice(&bytes)
            .map_err(|error| failed(&format!("not understood at line {}", error.line())));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("not text"))?;
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let members = lines.map(|(name, value)| (name.trim().to_owned(), value.trim().into()));
    let object = serde_json::Value::Object(members.collect());
    serde_json::from_value(object).map_err(|_| failed("vault_url, secret_mount_point or token is missing"))
}

fn text_of(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Vault {
    fn new(config: Config, path: &Path) -> Result<Self, String> {
        let seconds =
            config.timeout.as_ref().and_then(|value| text_of(value).parse().ok()).filter(|seconds| *seconds > 0);
        let seconds = seconds.unwrap_or(TIMEOUT_SECONDS).min(TIMEOUT_SECONDS_MAX);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = roots(config.vault_ca.as_deref(), path)?;
        let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).root_certs(roots).build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(Duration::from_secs(seconds)))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let url = config.vault_url.trim_end_matches('/').to_owned();
        Ok(Self { agent, url, token: Zeroizing::new(config.token), namespace: config.vault_namespace })
    }

    /// The body of an answer with status 2xx; none for 404.
    fn get(&self, path: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        let mut request =
            self.agent.get(format!("{}/v1/{path}", self.url)).header("X-Vault-Token", self.token.as_str());
        if let Some(namespace) = self.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let mut response = request.call().map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            200..300 => {
                let body = response.body_mut().with_config().limit(RESPONSE_BYTES_MAX).read_to_vec();
                Ok(Some(Zeroizing::new(body.map_err(|error| error.to_string())?)))
            }
            404 => Ok(None),
            403 => Err("the token is not allowed to read there (403)".to_owned()),
            status => Err(format!("it answers {status}")),
        }
    }

    /// Where lists and secrets are. Which part of the mount point is the engine's own, and which a folder in it, only
    /// the engine's configuration tells.
    fn paths(&self, mount: &str, version: &str) -> Result<Paths, String> {
        let one = || Paths { list: mount.to_owned(), data: mount.to_owned(), nested: false };
        if version == "1" {
            return Ok(one());
        }
        for end in mount.match_indices('/').map(|(at, _)| at).chain([mount.len()]) {
            let (engine, folder) = mount.split_at(end);
            // Not every token may look at a configuration: that is no answer either.
            let config = self.get(&format!("{engine}/config")).unwrap_or(None);
            if version == "2" && end == mount.len() || config.is_some_and(|body| is_version_2(&body)) {
                let list = format!("{engine}/metadata{folder}");
                return Ok(Paths { list, data: format!("{engine}/data{folder}"), nested: true });
            }
        }
        Ok(one())
    }

    fn keyring(&self, paths: &Paths) -> Result<Keyring, String> {
        #[derive(Deserialize)]
        struct List {
            data: Names,
        }
        #[derive(Deserialize)]
        struct Names {
            keys: Vec<String>,
        }

        let mut keyring = Keyring::new();
        let Some(body) = self.get(&format!("{}?list=true", paths.list))? else { return Ok(keyring) };
        let list: List = serde_json::from_slice(&body).map_err(|_| "its list of keys is not understood".to_owned())?;
        for name in list.data.keys {
            let Some(key_id) = replication_key(&name) else { continue };
            // Deleted meanwhile, or, in version 2, its newest version is.
            let Some(body) = self.get(&format!("{}/{name}", paths.data))? else { continue };
            let key = key_of(&body, paths.nested).ok_or_else(|| format!("the secret of {key_id} is not understood"))?;
            if let Some(key) = key {
                keyring.insert(key_id, key);
            }
        }
        Ok(keyring)
    }
}

/// What a server's certificate may be signed by: the configured authority, or those of the system.
fn roots(authority: Option<&Path>, config: &Path) -> Result<RootCerts, String> {
    let Some(path) = authority.filter(|path| !path.as_os_str().is_empty()) else {
        let found = rustls_native_certs::load_native_certs().certs;
        let certificates: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        return Ok(RootCerts::new_with_certs(&certificates));
    };
    // As the server has it, or beside its configuration, where that was copied to.
    let beside = config.with_file_name(path.file_name().unwrap_or_default());
    let pem = std::fs::read(path).or_else(|_| std::fs::read(beside));
    let pem = pem.map_err(|error| format!("vault_ca {}: {error}", path.display()))?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(format!("vault_ca {} has no certificate", path.display()));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

fn is_version_2(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|value| {
        let data = &value["data"];
        data.get("max_versions").is_some() && data.get("cas_required").is_some()
    })
}

/// The id of a replication master key without an owner, out of a secret's name.
fn replication_key(name: &str) -> Option<KeyId> {
    let signature = String::from_utf8(STANDARD.decode(name).ok()?).ok()?;
    let (key_id, rest) = counted(&signature)?;
    let (owner, rest) = counted(rest)?;
    let key_id: KeyId = key_id.parse().ok()?;
    let wanted = owner.is_empty() && rest.is_empty() && matches!(key_id.role(), KeyRole::Master { .. });
    wanted.then_some(key_id)
}

/// The text of `<length>_<text>`, and what follows.
fn counted(text: &str) -> Option<(&str, &str)> {
    let (len, rest) = text.split_once('_')?;
    rest.split_at_checked(len.parse().ok()?)
}

/// The key in a secret; `Some(None)` for one of another type.
fn key_of(body: &[u8], nested: bool) -> Option<Option<MasterKey>> {
    #[derive(Deserialize)]
    struct Secret<'a> {
        r#type: &'a str,
        value: &'a str,
    }
    #[derive(Deserialize)]
    struct One<'a> {
        #[serde(borrow)]
        data: Secret<'a>,
    }
    #[derive(Deserialize)]
    struct Two<'a> {
        #[serde(borrow)]
        data: One<'a>,
    }

    let secret = match nested {
        true => serde_json::from_slice::<Two<'_>>(body).ok()?.data.data,
        false => serde_json::from_slice::<One<'_>>(body).ok()?.data,
    };
    if secret.r#type != "AES" {
        return Some(None);
    }
    let bytes = Zeroizing::new(STANDARD.decode(secret.value).ok()?);
    MasterKey::from_slice(&bytes).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_those_of_perconas_component() {
        // As the component names key number 1: 58 characters, then the empty owner.
        let name = "NThfTXlTUUxSZXBsaWNhdGlvbktleV8wMDUwODU4My1iNWNlLTExZTgtYTZhNS0wMDEwZTA3MzQ3OTZfMTBf";
        let id = "MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796_1";
        assert_eq!(replication_key(name).unwrap().as_str(), id);
        let encode = |text: String| STANDARD.encode(text);
        assert_eq!(replication_key(&encode(format!("58_{id}0_"))).unwrap().as_str(), id);
        for bad in [format!("58_{id}4_root"), format!("59_{id}0_"), format!("58_{id}"), id.to_owned(), "3_abc0_".into()]
        {
            assert_eq!(replication_key(&encode(bad.clone())), None, "{bad}");
        }
        assert_eq!(replication_key("%%%"), None);
    }
}
