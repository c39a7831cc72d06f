//! `init`: a first configuration, an age identity and the archive.

use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::Context;
use super::stores;
use crate::archive::{Archive, ArchiveError, catch_up, make_copy};
use crate::cli::InitArgs;
use crate::config::{Config, SEGMENT_BYTES_MAX, SourceConfig, StoreConfig};
use crate::exit::{Exit, Failure};
use crate::fsync;
use crate::render;
use crate::seal::NewIdentity;
use crate::store::{DirectoryStore, MirrorStore, ObjectStore};

/// The identity's file, beside the configuration.
const IDENTITY_FILE: &str = "highwater-identity.txt";

/// Runs it.
pub(super) fn run(context: &Context, args: &InitArgs) -> anyhow::Result<Exit> {
    let named = context.named_config().map(Path::to_owned);
    let path = absolute(named.or_else(Config::find).unwrap_or_else(|| PathBuf::from("highwater.toml")))?;
    let mut report = Report::default();
    let config = if path.exists() {
        report.kept("configuration", path.display().to_string());
        Config::load(Some(&path))?.0
    } else {
        write_configuration(&path, args, &mut report)?
    };
    make_archive(&config, &mut report)?;
    if context.json() {
        render::print_json(&json!({ "made": report.made, "kept": report.kept, "grants": grants(&config) }))?;
    } else {
        render::print(&report.text(&config, &path))?;
    }
    Ok(Exit::Done)
}

/// What was made and what was there.
#[derive(Debug, Default)]
struct Report {
    made: Vec<String>,
    kept: Vec<String>,
    identity: Option<PathBuf>,
}

impl Report {
    fn made(&mut self, what: &str, place: String) {
        self.made.push(format!("{what} {place}"));
    }

    fn kept(&mut self, what: &str, place: String) {
        self.kept.push(format!("{what} {place}"));
    }

    fn text(&self, config: &Config, path: &Path) -> String {
        let mut text = String::new();
        self.made.iter().for_each(|line| text.push_str(&format!("made  {line}\n")));
        self.kept.iter().for_each(|line| text.push_str(&format!("kept  {line}\n")));
        if let Some(identity) = &self.identity {
            text.push_str(&format!(
                "\nKeep a copy of {} away from this machine: without it nothing can be restored.\n\
                 The agent does not need it; it may be moved away.\n",
                identity.display()
            ));
        }
        if config.seal.recipients.is_empty() {
            text.push_str("\nThe archive is NOT encrypted: whoever reads the store reads every row.\n");
        }
        if config.source.is_some() {
            text.push_str("\nOn the MySQL server, as an administrator:\n\n");
        }
        grants(config).iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        text.push_str("\nThen:\n\n");
        if let Some(crate::secret::SecretPlace::File(password)) =
            config.source.as_ref().and_then(|source| source.password.as_ref())
        {
            text.push_str(&format!("  put the password into {} (chmod 600)\n", password.display()));
        }
        let option = if path.ends_with("highwater.toml") && Config::find().is_some() {
            String::new()
        } else {
            format!(" --config {}", path.display())
        };
        text.push_str(&format!("  highwater{option} doctor\n  highwater{option} agent\n"));
        text
    }
}

/// The least that the agent's account needs: to follow the binlog, and to dump everything consistently.
fn grants(config: &Config) -> Vec<String> {
    let Some(SourceConfig { user, .. }) = &config.source else { return Vec::new() };
    let account = format!("'{}'@'%'", user.replace('\\', "\\\\").replace('\'', "\\'"));
    vec![
        format!("CREATE USER {account} IDENTIFIED BY '…';"),
        format!("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {account};"),
        format!("GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD ON *.* TO {account};"),
        format!("GRANT BACKUP_ADMIN, XA_RECOVER_ADMIN ON *.* TO {account};"),
    ]
}

fn write_configuration(path: &Path, args: &InitArgs, report: &mut Report) -> anyhow::Result<Config> {
    let missing = |option: &str| {
        Failure::new(Exit::Usage, format!("{} does not exist, and {option} is not given", path.display()))
            .hint("highwater init --service orders --store /backup/orders --host db1.example.net")
    };
    let service = args.service.as_deref().ok_or_else(|| missing("--service"))?;
    let store = absolute(args.store.as_deref().ok_or_else(|| missing("--store"))?)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let identity_path = folder.join(IDENTITY_FILE);
    let new_identity = args.recipient.is_empty() && !args.danger_unencrypted;
    if new_identity && identity_path.exists() {
        let error = format!("{} exists, and the configuration does not", identity_path.display());
        let hint = "name its public key with --recipient, or move it away for a new one";
        return Err(Failure::new(Exit::Usage, error).hint(hint).into());
    }
    let identity = new_identity.then(NewIdentity::generate);
    let recipients = match &identity {
        Some(identity) => vec![identity.public_key()],
        None => args.recipient.clone(),
    };
    let text = starter(args, service, &store, &recipients, identity.is_some().then_some(identity_path.as_path()));
    // Everything that can be refused is refused before the first file is written.
    let config = Config::parse(&text, path)?;
    if let Some(problem) = unusable(&store)? {
        return Err(problem.into());
    }
    fsync::create_directories(folder).with_context(|| format!("make folder {}", folder.display()))?;
    if let Some(identity) = identity {
        fsync::write_new(&identity_path, identity.file_text().as_bytes())
            .with_context(|| format!("write {}", identity_path.display()))?;
        report.made("age identity", identity_path.display().to_string());
        report.identity = Some(identity_path);
    }
    fsync::write_new(path, text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
    report.made("configuration", path.display().to_string());
    Ok(config)
}

/// Why a new archive cannot be made in a folder.
fn unusable(store: &Path) -> anyhow::Result<Option<ArchiveError>> {
    if !store.exists() {
        return Ok(None);
    }
    let opened = Arc::new(DirectoryStore::open(store)?);
    match Archive::open(opened.clone(), None) {
        Ok(_) => Ok(Some(ArchiveError::ExistsAlready { store: store.display().to_string() })),
        Err(ArchiveError::NoArchive { .. }) => {
            let first = opened.list(None)?.into_iter().next();
            Ok(first.map(|first| ArchiveError::NotEmpty {
                store: store.display().to_string(),
                object: first.key.to_string(),
            }))
        }
        Err(error) => Ok(Some(error)),
    }
}

fn make_archive(config: &Config, report: &mut Report) -> anyhow::Result<()> {
    for StoreConfig::Directory { path } in config.stores() {
        DirectoryStore::create_root(path)?;
    }
    let store = stores::open(&config.store)?;
    let stores = stores::open_all(config)?;
    refuse_second_archive(&stores)?;
    let recipients = config.recipients()?;
    let place = |store: &dyn ObjectStore| format!("of service {} in {}", config.service, store.describe());
    match Archive::create(store.clone(), config.service.parse()?, recipients.clone()) {
        Ok(_) => report.made("archive", place(&*store)),
        Err(ArchiveError::ExistsAlready { .. }) => {
            Archive::open(store.clone(), None)?.for_writing(&config.service.parse()?, recipients)?;
            report.kept("archive", place(&*store));
        }
        Err(error) => return Err(error.into()),
    }
    for copy in stores.copies() {
        match make_copy(&stores, copy)? {
            true => report.made("copy", place(copy)),
            false => report.kept("copy", place(copy)),
        }
    }
    catch_up(&stores)?;
    Ok(())
}

/// A first store that is empty while a copy is not has lost everything: a new archive there would be another one.
fn refuse_second_archive(stores: &MirrorStore) -> anyhow::Result<()> {
    if Archive::is_in(stores.first())? {
        return Ok(());
    }
    for copy in stores.copies() {
        if Archive::is_in(copy)? {
            let (empty, full) = (stores.first().describe(), copy.describe());
            let error = format!("{empty} holds no archive, and its copy in {full} does");
            let hint = format!("make {full} the [store] and {empty} one of [[copies]]: init fills it");
            return Err(Failure::new(Exit::Failed, error).hint(hint).into());
        }
    }
    Ok(())
}

/// The starter configuration.
fn starter(args: &InitArgs, service: &str, store: &Path, recipients: &[String], identity: Option<&Path>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let path = |path: &Path| quoted(&path.display().to_string());
    let server = match &args.socket {
        Some(socket) => format!("socket = {}", path(&absolute(socket).unwrap_or_else(|_| socket.clone()))),
        None => format!("host = {}\nport = {}", quoted(&args.host), args.port),
    };
    let recipients = recipients.iter().map(|key| quoted(key)).collect::<Vec<_>>().join(", ");
    let identity = match identity {
        Some(file) => format!("identity_file = {}", path(file)),
        None => "# identity_file = \"highwater-identity.txt\"".to_owned(),
    };
    let state_dir = absolute(&args.state_dir).unwrap_or_else(|_| args.state_dir.clone());
    format!(
        "\
# What is protected, over the years, whichever server runs it.
service = {service}
# The agent's own folder: spool, catalog, lock.
state_dir = {state_dir}

[source]
{server}
user = {user}
# Where the password is: {{ file = … }}, {{ env = \"NAME\" }} or {{ command = [\"program\", \"argument\"] }}.
password = {{ file = \"password\" }}
# verify-identity (default), verify-ca, danger-no-verify, danger-disabled. Sockets use none.
tls = \"verify-identity\"
# ca = \"ca.pem\"
# Must differ from that of every server and replica.
# server_id = 1651862388

[store]
kind = \"directory\"
path = {store}

# Further stores, each a full copy: what is not in all of them does not count as stored. `highwater init` fills a new one.
# [[copies]]
# kind = \"directory\"
# path = \"/mnt/nas/orders\"

[seal]
# age public keys; each of their identities opens everything.
recipients = [{recipients}]
# Only for commands that read back; the agent does not need it.
{identity}

[capture]
# A segment is in the store at the latest this long after its first byte.
segment_age_seconds = 5
segment_bytes_max = {segment_bytes_max}

[dump]
# Full dumps, five cron fields, local time.
schedule = \"30 2 * * *\"

# [keyring]
# Keyring files of the source, if the agent can read them: their keys are sealed into the archive.
# files = [\"/var/lib/mysql-keyring/keyring\"]
",
        service = quoted(service),
        state_dir = path(&state_dir),
        user = quoted(&args.user),
        store = path(store),
        segment_bytes_max = SEGMENT_BYTES_MAX,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(words: &[&str]) -> InitArgs {
        let cli = crate::cli::Cli::try_parse_from([&["highwater", "init"], words].concat()).unwrap();
        match cli.command {
            crate::cli::Command::Init(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_starter_configuration_parses_whatever_the_names() {
        let key = NewIdentity::generate().public_key();
        for words in [
            &["--host", "db1"][..],
            &["--socket", "/run/it's \"here\"/my\\sql.sock", "--user", "o'brien"],
            &["--recipient", &key],
            &["--danger-unencrypted"],
        ] {
            let args = args(words);
            let text = starter(&args, "orders", Path::new("/backup/or ders"), &args.recipient, None);
            let config = Config::parse(&text, Path::new("/etc/highwater.toml")).unwrap();
            assert_eq!(config.recipients().unwrap().texts(), args.recipient);
            let source = config.source.unwrap();
            assert_eq!(source.socket, args.socket);
            assert_eq!(source.user, args.user);
        }
    }

    #[test]
    fn grants_quote_the_account() {
        let args = args(&["--user", "o'brien"]);
        let text = starter(&args, "orders", Path::new("/b"), &[], None);
        let config = Config::parse(&text, Path::new("/etc/highwater.toml")).unwrap();
        assert!(grants(&config)[1].ends_with("TO 'o\\'brien'@'%';"));
    }
}
