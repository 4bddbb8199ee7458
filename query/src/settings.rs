//! Section `[query]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use nodescope_service::errors::chain;
use nodescope_service::settings::Settings;

use crate::engine::Spill;
use crate::limits::Limits;
use crate::server::postgres::{PostgresOptions, TlsFiles, Users};

/// What a query server needs to know.
#[derive(Debug, Clone)]
pub struct QuerySettings {
    /// The door for SQL.
    pub postgres: PostgresOptions,
    /// Bounds.
    pub limits: Limits,
    /// Where queries spill.
    pub spill: Spill,
    /// Decoded hot rows kept in memory, bytes.
    pub hot_cache_bytes: usize,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub http_address: SocketAddr,
}

impl QuerySettings {
    /// Reads the section. Files it names are read too, so that their mistakes are told with the others.
    pub fn read(settings: &mut Settings) -> Self {
        let address: SocketAddr =
            settings.get("query.postgres_address", "127.0.0.1:15432", "Address of the PostgreSQL protocol.");
        let users = settings
            .optional::<PathBuf>(
                "query.users_file",
                "File of users and their SCRAM verifiers. Without it nobody has to log in, and only loopback is served.",
            )
            .and_then(|path| match Users::load(&path) {
                Ok(users) => Some(users),
                Err(error) => {
                    settings.mistake(format!("query.users_file: {}", chain(&error)));
                    None
                }
            });
        let cert =
            settings.optional::<PathBuf>("query.certificate_file", "Certificate chain (PEM); with it, TLS is offered.");
        let key = settings.optional::<PathBuf>("query.key_file", "Its private key (PEM).");
        let tls = match (cert, key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            _ => {
                settings.mistake("query.certificate_file and query.key_file go together");
                None
            }
        };
        let require_tls: bool = settings.get("query.require_tls", "false", "Turn away clients that do not use TLS.");
        if require_tls && tls.is_none() {
            settings.mistake("query.require_tls: query.certificate_file and query.key_file are needed");
        }
        let insecure_no_auth: bool = settings.get(
            "query.insecure_no_auth",
            "false",
            "Let everybody in, even on an address that others can reach. Only where something else keeps them out.",
        );
        let is_open = users.is_none() && !insecure_no_auth;
        if is_open && !is_loopback(&address) {
            settings.mistake(
                "query.postgres_address can be reached by others: name a query.users_file, or allow it with query.insecure_no_auth",
            );
        }
        let defaults = Limits::default();
        let memory_bytes = size(settings.bytes(
            "query.memory",
            "1GiB",
            "Memory of all running queries. What does not fit is spilled or refused.",
        ));
        let query_memory_bytes = settings.bytes(
            "query.query_memory",
            "0",
            "The same for the queries of one session; 0 for no bound of its own.",
        );
        let statement_timeout = settings.duration(
            "query.statement_timeout",
            "1m",
            "The longest a statement may take, to its last row. Must be shorter than collector.grace.",
        );
        if statement_timeout.is_zero() {
            settings.mistake("query.statement_timeout: at least 1ms");
        }
        let limits = Limits {
            memory_bytes,
            query_memory_bytes: (query_memory_bytes > 0).then(|| size(query_memory_bytes)),
            statement_timeout,
            max_rows: settings.get("query.max_rows", "10000000", "Rows that one statement may return."),
            max_connections: settings.get("query.max_connections", "100", "Sessions open at one time."),
            concurrent_queries: settings
                .optional("query.concurrent_queries", "Statements that run at one time; twice the CPUs without it.")
                .unwrap_or(defaults.concurrent_queries),
            queue_length: settings.get(
                "query.queue_length",
                "100",
                "Statements that may wait for their turn; others are refused.",
            ),
            queue_wait: settings.duration("query.queue_wait", "10s", "The longest a statement waits for its turn."),
            ..defaults
        };
        let spill = Spill {
            folder: settings
                .optional("query.spill_folder", "Where queries spill; the system's temporary folder without it."),
            bytes: settings.bytes("query.spill_size", "10GiB", "Disk that all queries together may take to spill."),
        };
        Self {
            postgres: PostgresOptions { address, users, tls, require_tls, insecure_no_auth },
            limits,
            spill,
            hot_cache_bytes: size(settings.bytes("query.hot_cache", "256MiB", "Decoded hot rows kept in memory.")),
            http_address: settings.get(
                "query.http_address",
                "127.0.0.1:15480",
                "Address of /metrics, /healthz and /readyz.",
            ),
        }
    }
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> Vec<String> {
        let mut settings = Settings::default();
        for (key, value) in values {
            settings.flag(key, Some(value));
        }
        QuerySettings::read(&mut settings);
        settings.finish().map_or_else(|e| e.0, |()| Vec::new())
    }

    #[test]
    fn loopback_needs_no_users_and_everything_else_does() {
        assert!(read(&[]).is_empty());
        assert!(read(&[("query.postgres_address", "[::1]:0")]).is_empty());
        assert_eq!(read(&[("query.postgres_address", "0.0.0.0:5432")]).len(), 1);
        assert!(read(&[("query.postgres_address", "0.0.0.0:5432"), ("query.insecure_no_auth", "true")]).is_empty());
    }

    #[test]
    fn tls_is_whole_or_not_at_all() {
        assert_eq!(read(&[("query.certificate_file", "/x")]).len(), 1);
        assert_eq!(read(&[("query.require_tls", "true")]).len(), 1);
        assert_eq!(read(&[("query.users_file", "/nonexistent")]).len(), 1);
    }
}
