//! The options of TLS: a server's certificates, and whom a client trusts.

use std::path::PathBuf;

use clap::{ArgMatches, Args, ValueEnum};
use heartwire::{Client, ClientTls, Error, ServerTls, TlsError};

use super::usage_error::{UsageError, refuse};
use super::values::is_unix;

/// With what a server encrypts.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct ServerOptions {
    /// Serve wss:// and https:// with the certificate chain in this PEM file; repeatable, for further names
    #[arg(long, value_name = "FILE")]
    tls_cert: Vec<PathBuf>,

    /// The private key of the certificate, in PEM; one for each --tls-cert, in the same order
    #[arg(long, value_name = "FILE")]
    tls_key: Vec<PathBuf>,

    /// Ask clients for a certificate issued by a CA in this PEM file
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Whether a client without a certificate is refused
    #[arg(long, value_enum, default_value = "required")]
    tls_client_cert: Presence,

    /// Serve wss:// with a certificate for localhost that is made anew and kept in memory: for a try
    #[cfg(feature = "self-signed")]
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"])]
    pub(crate) tls_self_signed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Presence {
    Required,
    Requested,
}

impl ServerOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        let (certificates, keys) = (self.tls_cert.len(), self.tls_key.len());
        if certificates != keys {
            let text = "each --tls-cert needs a --tls-key, in the same order, and each --tls-key a --tls-cert";
            return Err(UsageError::new(format!("{text}: there are {certificates} and {keys}")));
        }
        if !self.encrypts() {
            refuse(given, &["tls_client_ca"], "without --tls-cert")?;
        }
        if self.tls_client_ca.is_none() {
            refuse(given, &["tls_client_cert"], "without --tls-client-ca")?;
        }
        Ok(())
    }

    /// Whether there is to be TLS at all.
    pub(crate) fn encrypts(&self) -> bool {
        !self.tls_cert.is_empty() || self.is_self_signed()
    }

    #[cfg(feature = "self-signed")]
    fn is_self_signed(&self) -> bool {
        self.tls_self_signed
    }

    #[cfg(not(feature = "self-signed"))]
    fn is_self_signed(&self) -> bool {
        false
    }

    /// What is served from files, if anything is.
    pub(crate) fn load(&self) -> Result<Option<ServerTls>, TlsError> {
        let mut pairs = self.tls_cert.iter().zip(&self.tls_key);
        let Some((chain, key)) = pairs.next() else { return Ok(None) };
        let first = ServerTls::from_pem_files(chain, key)?;
        pairs.try_fold(first, |tls, (chain, key)| tls.add_pem_files(chain, key)).map(Some)
    }

    /// The same, with what clients have to show.
    pub(crate) fn with_clients(&self, tls: ServerTls) -> Result<ServerTls, TlsError> {
        match (&self.tls_client_ca, self.tls_client_cert) {
            (None, _) => Ok(tls),
            (Some(ca), Presence::Required) => tls.require_client_certificates(ca),
            (Some(ca), Presence::Requested) => tls.request_client_certificates(ca),
        }
    }

    /// All files that may be replaced while the server runs.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        [&self.tls_cert[..], &self.tls_key, self.tls_client_ca.as_slice()].concat()
    }
}

/// Whom a client trusts, and what it shows.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct ClientOptions {
    /// Trust the CAs in this PEM file, in place of the system's
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,

    /// Present the certificate chain in this PEM file to a server that asks for one
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// The private key of --cert, in PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Accept any certificate, whoever presents it: anyone on the way can pose as the server. Only for a try
    #[arg(long)]
    insecure: bool,
}

impl ClientOptions {
    /// Refuses options that would have no effect beside the others, or with this URL.
    pub(super) fn check(&self, url: &str, given: &ArgMatches) -> Result<(), UsageError> {
        if self.cert.is_some() != self.key.is_some() {
            return Err(UsageError::new("--cert and --key need each other: a certificate, and its private key"));
        }
        if url.starts_with("ws://") {
            refuse(given, &["cacert", "cert", "key", "insecure"], "with a URL that begins with ws://")?;
        }
        if is_unix(url) {
            refuse(given, &["cacert", "cert", "key", "insecure"], "with a Unix socket")?;
        }
        match self.insecure {
            true => refuse(given, &["cacert"], "with --insecure"),
            false => Ok(()),
        }
    }

    /// A client that trusts and shows what it should. A URL without TLS changes nothing.
    pub(crate) fn apply_to(&self, client: Client) -> Result<Client, Error> {
        let mut tls = ClientTls::new();
        if let Some(ca) = &self.cacert {
            tls = tls.ca_file(ca)?;
        }
        if let (Some(chain), Some(key)) = (&self.cert, &self.key) {
            tls = tls.client_certificate_files(chain, key)?;
        }
        if self.insecure {
            tls = tls.danger_accept_invalid_certs()?;
        }
        Ok(client.tls(tls))
    }

    /// Warns of certificates that are not verified. The log has to be started.
    pub(crate) fn warn(&self) {
        if self.insecure {
            log::warn!("--insecure: no certificate is verified, so anyone on the way can pose as the server");
        }
    }
}
