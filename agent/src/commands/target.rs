//! The target server, from the command line.

use crate::cli::{TargetArgs, TargetTls};
use crate::exit::{Exit, Failure};
use crate::secret::SecretPlace;
use crate::server::{ServerAddress, ServerLogin, TlsMode, TlsPolicy};

/// Where the target is and as whom to log in; `None` when no target was given. Fetches the password.
pub fn target_login(args: &TargetArgs) -> anyhow::Result<Option<ServerLogin>> {
    let (address, user) = match (&args.target, &args.target_socket, &args.target_user) {
        (Some(url), ..) => parse_url(url)?,
        (None, Some(socket), Some(user)) => (ServerAddress::Socket(socket.clone()), user.clone()),
        (None, ..) => return Ok(None),
    };
    let place = match (&args.target_password_file, &args.target_password_env) {
        (Some(path), _) => Some(SecretPlace::File(path.clone())),
        (None, Some(name)) => Some(SecretPlace::Env(name.clone())),
        (None, None) => None,
    };
    let password = place.as_ref().map(SecretPlace::read).transpose()?;
    let mode = match args.target_tls {
        TargetTls::VerifyIdentity => TlsMode::VerifyIdentity,
        TargetTls::VerifyCa => TlsMode::VerifyCa,
        TargetTls::DangerNoVerify => TlsMode::DangerNoVerify,
        TargetTls::DangerDisabled => TlsMode::DangerDisabled,
    };
    Ok(Some(ServerLogin { address, user, password, tls: TlsPolicy { mode, ca: args.target_ca.clone() } }))
}

/// Reads `mysql://USER@HOST[:PORT]`. The text of a refused URL is not repeated: it may hold a password.
fn parse_url(url: &str) -> Result<(ServerAddress, String), Failure> {
    let refuse = |error: &str| Failure::new(Exit::Usage, error).hint("a target looks like mysql://root@127.0.0.1:3307");
    let rest = url.strip_prefix("mysql://").ok_or_else(|| refuse("--target does not begin with mysql://"))?;
    let (account, place) = rest.rsplit_once('@').ok_or_else(|| refuse("--target names no user"))?;
    if account.contains(':') {
        return Err(Failure::new(Exit::Usage, "--target holds a password")
            .hint("the command line is visible to every user: give --target-password-file or --target-password-env"));
    }
    let place = place.strip_suffix('/').unwrap_or(place);
    if account.is_empty() {
        return Err(refuse("--target names no user"));
    }
    if place.contains(['/', '?', '#', '@']) {
        return Err(refuse("--target has more than user, host and port"));
    }
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, after)) => (host, Some(after.strip_prefix(':').unwrap_or(after))),
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        None => 3306,
        Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or_else(|| refuse("--target has a bad port"))?,
    };
    if host.is_empty() {
        return Err(refuse("--target names no host"));
    }
    Ok((ServerAddress::Tcp { host: host.to_owned(), port }, account.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> ServerAddress {
        ServerAddress::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn urls_are_read() {
        let ok = |url: &str| parse_url(url).unwrap();
        assert_eq!(ok("mysql://root@127.0.0.1:3307"), (tcp("127.0.0.1", 3307), "root".to_owned()));
        assert_eq!(ok("mysql://root@db/"), (tcp("db", 3306), "root".to_owned()));
        assert_eq!(ok("mysql://r@x@[::1]:3307"), (tcp("::1", 3307), "r@x".to_owned()));
        assert_eq!(ok("mysql://root@[::1]"), (tcp("::1", 3306), "root".to_owned()));
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let failure = parse_url("mysql://root:hunter2@db").unwrap_err();
        assert_eq!(failure.error, "--target holds a password");
        assert_eq!(
            failure.hint.unwrap(),
            "the command line is visible to every user: give --target-password-file or --target-password-env"
        );
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn bad_urls_are_refused() {
        let error = |url: &str| parse_url(url).unwrap_err().error;
        assert_eq!(error("root@db"), "--target does not begin with mysql://");
        assert_eq!(error("mysql://db"), "--target names no user");
        assert_eq!(error("mysql://@db"), "--target names no user");
        assert_eq!(error("mysql://root@"), "--target names no host");
        assert_eq!(error("mysql://root@db:0"), "--target has a bad port");
        assert_eq!(error("mysql://root@db:99999"), "--target has a bad port");
        assert_eq!(error("mysql://root@db/mysql"), "--target has more than user, host and port");
    }
}
