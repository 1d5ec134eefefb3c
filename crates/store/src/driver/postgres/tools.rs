//! What PostgreSQL's own tools need to connect where we do: their environment, so that a password is in no list of
//! processes.

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::faults;
use super::open::PostgresError;

/// The variables of a URL for `pg_dump` and `pg_restore`.
pub fn tool_environment(url: &str) -> Result<Vec<(&'static str, String)>, PostgresError> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let config: Config = base.parse().map_err(|e: tokio_postgres::Error| PostgresError::Url { reason: faults::text(&e) })?;
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    };
    let join = |list: Vec<String>| (!list.is_empty()).then(|| list.join(","));
    let password = config.get_password().map(|p| String::from_utf8_lossy(p).into_owned());
    let found = [
        ("PGHOST", join(config.get_hosts().iter().map(host).collect())),
        ("PGPORT", join(config.get_ports().iter().map(u16::to_string).collect())),
        ("PGUSER", config.get_user().map(str::to_owned)),
        ("PGPASSWORD", password),
        ("PGDATABASE", config.get_dbname().or(config.get_user()).map(str::to_owned)),
        ("PGSSLMODE", parameter(query, "sslmode")),
        ("PGSSLROOTCERT", parameter(query, "sslrootcert")),
    ];
    Ok(found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name))?.1;
    Some(value.replace("%2F", "/").replace("%2f", "/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_becomes_an_environment() {
        let url = "postgres://me:s%40cret@db.example:5433/provisor?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem";
        let expected = [
            ("PGHOST", "db.example"),
            ("PGPORT", "5433"),
            ("PGUSER", "me"),
            ("PGPASSWORD", "s@cret"),
            ("PGDATABASE", "provisor"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/etc/ca.pem"),
        ];
        assert_eq!(tool_environment(url).unwrap(), expected.map(|(n, v)| (n, v.to_owned())));
        assert!(tool_environment("nonsense").is_err());
    }
}
