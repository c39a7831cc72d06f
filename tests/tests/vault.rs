//! `binlog-decrypt` with keys in a Vault, against a small HTTP server, with and without TLS, that speaks the API of its KV
//! engine.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, ensure};
use highwater_keyring::Keyring;
use highwater_tests::{MysqlServer, Programs, TlsFiles};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

/// What the server wants to see, and what must not be seen anywhere else.
const TOKEN: &str = "hvs.canary-token";

/// Base64, by the system's own program.
fn base64(bytes: &[u8]) -> Result<String> {
    use std::process::{Command, Stdio};
    let mut child = Command::new("base64").arg("-w0").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(bytes)?;
    Ok(String::from_utf8(child.wait_with_output()?.stdout)?)
}

/// A Vault whose engine of `version` is mounted at `secret/mysql`, with the keys in folder `db1` of it.
struct Vault {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Vault {
    fn start(version: u8, keyring: &Keyring) -> Result<Self> {
        Self::listen(TcpListener::bind("127.0.0.1:0")?, version, keyring, None)
    }

    /// The same behind a certificate, at an address that the certificate may or may not name.
    fn start_with_tls(address: &str, keyring: &Keyring, tls: &TlsFiles) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(&tls.certificate)?],
                PrivateKeyDer::from_pem_file(&tls.key)?,
            )?;
        Self::listen(TcpListener::bind((address, 0))?, 2, keyring, Some(Arc::new(config)))
    }

    fn listen(listener: TcpListener, version: u8, keyring: &Keyring, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr()?);
        let mut secrets = Vec::new();
        for (id, key) in keyring.keys() {
            let name = base64(format!("{}_{id}0_", id.as_str().len()).as_bytes())?;
            let secret = format!(r#"{{"type":"AES","value":"{}"}}"#, base64(key.expose())?);
            secrets.push((name, secret));
        }
        secrets.push((base64(b"5_other4_root")?, r#"{"type":"AES","value":"AAAA"}"#.to_owned()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = match &tls {
                    None => Self::serve(&mut stream, version, &secrets, &log),
                    Some(config) => Self::serve_with_tls(&mut stream, config, version, &secrets, &log),
                };
            }
        });
        Ok(Self { url, asked })
    }

    fn serve_with_tls(
        stream: &mut TcpStream,
        config: &Arc<ServerConfig>,
        version: u8,
        secrets: &[(String, String)],
        log: &Mutex<Vec<String>>,
    ) -> Result<()> {
        let mut connection = ServerConnection::new(Arc::clone(config))?;
        Self::serve(&mut rustls::Stream::new(&mut connection, stream), version, secrets, log)?;
        connection.send_close_notify();
        connection.write_tls(stream)?;
        Ok(())
    }

    fn serve(
        stream: &mut (impl Read + Write),
        version: u8,
        secrets: &[(String, String)],
        log: &Mutex<Vec<String>>,
    ) -> Result<()> {
        let mut lines = BufReader::new(&mut *stream).lines();
        let request = lines.next().context("a request")??;
        let mut allowed = false;
        for line in &mut lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            allowed |= line
                .split_once(": ")
                .is_some_and(|(name, value)| name.eq_ignore_ascii_case("x-vault-token") && value == TOKEN);
        }
        drop(lines);
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        if let Ok(mut log) = log.lock() {
            log.push(path.clone());
        }
        let (list, data) = match version {
            1 => ("/v1/secret/mysql/db1?list=true", "/v1/secret/mysql/db1/"),
            _ => ("/v1/secret/mysql/metadata/db1?list=true", "/v1/secret/mysql/data/db1/"),
        };
        let names = || secrets.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(",");
        let secret = path.strip_prefix(data).and_then(|name| secrets.iter().find(|(known, _)| known == name));
        let body = match (allowed, path.as_str(), secret) {
            (false, ..) => None,
            (_, "/v1/secret/mysql/config", _) if version == 2 => {
                Some(r#"{"data":{"cas_required":false,"max_versions":0}}"#.to_owned())
            }
            (_, path, _) if path == list => Some(format!(r#"{{"data":{{"keys":[{}]}}}}"#, names())),
            (_, _, Some((_, secret))) if version == 1 => Some(format!(r#"{{"lease_id":"","data":{secret}}}"#)),
            (_, _, Some((_, secret))) => Some(format!(r#"{{"data":{{"data":{secret},"metadata":{{"version":1}}}}}}"#)),
            _ => Some(String::new()),
        };
        let (status, body) = match body {
            None => ("403 Forbidden", String::new()),
            Some(body) if body.is_empty() => ("404 Not Found", r#"{"errors":[]}"#.to_owned()),
            Some(body) => ("200 OK", body),
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
        Ok(())
    }

    fn config(&self, path: &Path, version: &str, token: &str) -> Result<()> {
        let (url, mount) = (&self.url, "secret/mysql/db1");
        let text = format!(
            r#"{{"vault_url":"{url}","secret_mount_point":"{mount}","token":"{token}","secret_mount_point_version":"{version}"}}"#
        );
        Ok(fs::write(path, text)?)
    }
}

#[test]
fn keys_in_a_vault_of_either_version_open_a_servers_binlogs() -> Result<()> {
    let server = MysqlServer::builder().start()?;
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (1), (2)")?;
    server.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY; FLUSH BINARY LOGS")?;
    let name = server.binlogs()?.remove(0);
    let (file, sent) = (server.data().join(&name), server.remote_binlog(&name)?);
    let keyring = Keyring::read(&fs::read(server.keyring())?)?;
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    for (engine, versions) in [(1, ["AUTO", "1"]), (2, ["AUTO", ""])] {
        let vault = Vault::start(engine, &keyring)?;
        for version in versions {
            let config = folder.path().join("component_keyring_vault.cnf");
            vault.config(&config, version, TOKEN)?;
            for (option, place) in [("--vault", config.as_path()), ("--datadir", folder.path())] {
                let run = programs.decrypt([Path::new(option), place, &file])?.success()?;
                ensure!(run.stdout == sent, "engine {engine}, version {version}, {option}");
            }
            vault.config(&config, version, "hvs.wrong")?;
            let run = programs.decrypt([Path::new("--vault"), &config, &file])?;
            assert_eq!((run.code, run.stdout.len()), (Some(3), 0));
            assert!(run.stderr.contains("the token is not allowed") && !run.stderr.contains("hvs."), "{}", run.stderr);
        }
        let asked = vault.asked.lock().map(|asked| asked.join("\n")).unwrap_or_default();
        ensure!(!asked.contains(&base64(b"5_other4_root")?), "a secret of others was read");
    }
    // The old plug-in's configuration, and a Vault that is not there.
    let config = folder.path().join("keyring_vault.conf");
    let vault = Vault::start(1, &keyring)?;
    let text = format!("vault_url = {}\nsecret_mount_point = secret/mysql/db1\ntoken = {TOKEN}\n", vault.url);
    fs::write(&config, &text)?;
    ensure!(programs.decrypt([Path::new("--vault"), &config, &file])?.success()?.stdout == sent);
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    fs::write(&config, text.replace(&vault.url, &format!("http://{nobody}")))?;
    let run = programs.decrypt([Path::new("--vault"), &config, &file])?;
    assert_eq!(run.code, Some(3));
    assert!(!run.stderr.contains(TOKEN), "{}", run.stderr);
    Ok(())
}

#[test]
fn the_token_goes_only_to_a_vault_whose_certificate_is_right() -> Result<()> {
    let server = MysqlServer::builder().start()?;
    server.sql("CREATE DATABASE d; FLUSH BINARY LOGS")?;
    let name = server.binlogs()?.remove(0);
    let (file, sent) = (server.data().join(&name), server.remote_binlog(&name)?);
    let keyring = Keyring::read(&fs::read(server.keyring())?)?;
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    let [ours, others] = ["ours", "others"].map(|name| folder.path().join(name));
    for place in [&ours, &others] {
        fs::create_dir(place)?;
    }
    let (tls, other) = (TlsFiles::create(&ours)?, TlsFiles::create(&others)?);
    let config = folder.path().join("component_keyring_vault.cnf");
    let ask = |vault: &Vault, authority: Option<&Path>| {
        let authority = authority.map(|path| format!(r#","vault_ca":"{}""#, path.display())).unwrap_or_default();
        let text = format!(
            r#"{{"vault_url":"{}","secret_mount_point":"secret/mysql/db1","token":"{TOKEN}"{authority}}}"#,
            vault.url
        );
        fs::write(&config, text)?;
        programs.decrypt([Path::new("--vault"), &config, &file])
    };
    let vault = Vault::start_with_tls("127.0.0.1", &keyring, &tls)?;
    for (case, authority) in [("another authority", Some(other.ca.as_path())), ("those of the system", None)] {
        let run = ask(&vault, authority)?;
        assert_eq!((run.code, run.stdout.len()), (Some(3), 0), "{case}");
        assert!(run.stderr.contains("certificate") && !run.stderr.contains(TOKEN), "{case}: {}", run.stderr);
    }
    let elsewhere = Vault::start_with_tls("127.0.0.2", &keyring, &tls)?;
    let run = ask(&elsewhere, Some(&tls.ca))?;
    assert_eq!((run.code, run.stdout.len()), (Some(3), 0), "another address than the certificate's");
    for vault in [&vault, &elsewhere] {
        ensure!(vault.asked.lock().is_ok_and(|asked| asked.is_empty()), "it was asked before it was known");
    }
    ensure!(ask(&vault, Some(&tls.ca))?.success()?.stdout == sent);
    Ok(())
}
