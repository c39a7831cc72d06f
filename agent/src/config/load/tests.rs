use super::*;
use crate::secret::SecretPlace;
use crate::server::ServerAddress;

const GOOD: &str = r#"
service = "orders"
state_dir = "/var/lib/highwater"

[source]
host = "db1.example.net"
user = "highwater"
password = { file = "password" }

[store]
kind = "directory"
path = "/backup/orders"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/highwater/highwater.toml"))
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replace(from, to)
}

#[test]
fn a_short_configuration_has_useful_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.source.as_ref().unwrap().port, 3306);
    assert_eq!(config.capture.segment_age_seconds, 5);
    assert!(config.dump_schedule().unwrap().is_none());
    assert!(config.recipients().unwrap().is_empty());
}

#[test]
fn relative_paths_are_below_the_file() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.source.unwrap().password, Some(SecretPlace::File("/etc/highwater/password".into())));
    assert_eq!(config.state_dir, Path::new("/var/lib/highwater"));
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = changed("state_dir", "statedir");
    assert_eq!(
        message(&text),
        "/etc/highwater/highwater.toml, line 3, statedir: unknown field `statedir`, expected one of `service`, \
         `state_dir`, `source`, `store`, `copies`, `seal`, `capture`, `dump`, `keyring`"
    );
    let text = changed("user =", "usr =");
    assert!(message(&text).starts_with("/etc/highwater/highwater.toml, line 7, usr: unknown field `usr`"));
}

#[test]
fn an_inline_password_is_refused_and_not_repeated() {
    for inline in ["password = \"hunter2\"", "password = { file = \"x\", hunter2 = \"hunter2\" }", "password = 42"] {
        let error = parse(&changed("password = { file = \"password\" }", inline)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/etc/highwater/highwater.toml, line 8, password: expected the place of a secret, not the secret"
        );
        assert!(error.hint().unwrap().contains("{ file = \"/etc/highwater/password\" }"));
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[test]
fn a_missing_key_is_named() {
    assert!(message(&changed("service = \"orders\"", "")).contains("missing field `service`"));
    assert!(message(&changed("user = \"highwater\"\n", "")).contains("missing field `user`"));
}

#[test]
fn broken_toml_is_named_with_its_line() {
    assert!(message(&changed("[store]", "[store")).starts_with("/etc/highwater/highwater.toml, line 10"));
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let cases = [
        (
            changed("\"orders\"\n", "\"../orders\"\n"),
            "service: `../orders` is no service name: use letters, digits, `.`, `_` and `-`",
        ),
        (changed("user =", "socket = \"/s\"\nuser ="), "source.socket: give host or socket, not both"),
        (changed("host = \"db1.example.net\"\n", ""), "source.host: give host or socket"),
        (
            changed("db1.example.net", "mysql://db1"),
            "source.host: `mysql://db1` is no host name or address; the port is its own key",
        ),
        (changed("user =", "server_id = 0\nuser ="), "source.server_id: 0 is no replica's id"),
        (format!("{GOOD}[seal]\nrecipients = [\"age1x\"]"), "seal.recipients: `age1x` is not an age public key"),
        (
            format!("{GOOD}[capture]\nsegment_bytes_max = 1"),
            "capture.segment_bytes_max: 1 is not in 65536 to 1073741824",
        ),
        (format!("{GOOD}[capture]\nheartbeat_seconds = 0"), "capture.heartbeat_seconds: 0 is not in 1 to 300"),
        (format!("{GOOD}[capture]\nkeep_encrypted = true"), "capture.keep_encrypted: needs capture.source = \"files\""),
        (
            format!("{GOOD}[capture]\nkeep_encrypted = true\nsource = \"files\"\ndatadir = \"data\""),
            "capture.keep_encrypted: needs seal.recipients: the files' passwords are only stored sealed",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(message(&text), format!("/etc/highwater/highwater.toml: {expected}"));
    }
    let cron = message(&format!("{GOOD}[dump]\nschedule = \"often\""));
    assert!(cron.starts_with("/etc/highwater/highwater.toml: dump.schedule: `often` is no cron text: "), "{cron}");
}

#[test]
fn a_socket_needs_no_host() {
    let text = changed("host = \"db1.example.net\"", "socket = \"/run/mysqld/mysqld.sock\"")
        .replace("password = { file = \"password\" }", "");
    let login = parse(&text).unwrap().source().unwrap().login().unwrap();
    assert_eq!(login.address, ServerAddress::Socket("/run/mysqld/mysqld.sock".into()));
    assert!(login.password.is_none());
}

#[test]
fn copies_are_further_stores_each_named_once() {
    let path = |store: &StoreConfig| {
        let StoreConfig::Directory { path } = store;
        path.display().to_string()
    };
    let two = "\n[[copies]]\nkind = \"directory\"\npath = \"nas\"\n[[copies]]\nkind = \"directory\"\npath = \"/usb\"\n";
    let config = parse(&format!("{GOOD}{two}")).unwrap();
    assert_eq!(config.stores().map(path).collect::<Vec<_>>(), ["/backup/orders", "/etc/highwater/nas", "/usb"]);
    for twice in ["nas", "/backup/orders"] {
        let text = format!("{GOOD}{}", two.replace("/usb", twice));
        let full = if twice == "nas" { "/etc/highwater/nas" } else { twice };
        assert_eq!(message(&text), format!("/etc/highwater/highwater.toml: copies: {full} is named twice"));
    }
    let text = format!("{GOOD}{}", two.replace("path = \"/usb\"", "folder = \"/usb\""));
    assert!(message(&text).contains("unknown field `folder`"), "{}", message(&text));
}
