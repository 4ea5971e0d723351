//! What is wrong with TLS, in words that say what to do.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error as Cause, InvalidMessage, PeerIncompatible};

use super::text;
use crate::escape::Escaped;
use crate::foreign;

#[cfg(test)]
mod tests;

/// Why TLS cannot be set up, or why its handshake failed. Its text says what is wrong, with what, and what to do. It
/// shows neither keys nor certificates.
#[derive(Debug)]
pub struct TlsError {
    kind: TlsErrorKind,
    text: String,
    /// Whether only something that changes by itself, or is likely to be changed, stands in the way.
    may_pass: bool,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a [`TlsError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsErrorKind {
    /// A file, or text in PEM, cannot be read, or its contents cannot be used: no certificate in it, a key that belongs
    /// to another certificate. Fatal for a client.
    Files,
    /// No trusted root was found on this system. Fatal.
    NoRoots,
    /// The peer's certificate has expired. Not fatal: certificates are renewed, and clocks are set.
    Expired,
    /// The peer's certificate is not valid yet. Most often this machine's clock is wrong. Not fatal.
    NotValidYet,
    /// The server's certificate is for other names. Fatal.
    WrongName,
    /// The peer's certificate comes from an issuer that is not trusted here. Fatal.
    UnknownIssuer,
    /// The server presents the certificate of a CA, which is meant to sign others (`CaUsedAsEndEntity`). Fatal.
    CaAsServer,
    /// The peer's certificate has been revoked, is broken, or is not made for this purpose. Fatal.
    BadCertificate,
    /// The peer refuses our certificate, or asks for one where we have none. Fatal, unless it has expired: then it can
    /// be [reloaded](crate::ClientTls::reload).
    OurCertificate,
    /// The peer does not speak TLS. Fatal.
    NotTls,
    /// The ends have no version of TLS, no cipher suite or no protocol in common. Fatal.
    NothingInCommon,
    /// The peer broke the rules of TLS, or what arrived was damaged on its way. Not fatal.
    Protocol,
    /// Anything else. Not fatal.
    Other,
}

/// The other end of a handshake.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer<'a> {
    /// We are the client, and this is where we connect, as the user wrote it.
    Server(&'a str),
    /// We are the server.
    Client,
}

impl TlsError {
    pub(super) fn new(kind: TlsErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), may_pass: false, cause: None }
    }

    pub(super) fn because(self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// The error of a handshake, or of a connection after it.
    pub(crate) fn of_connection(cause: Cause, peer: Peer<'_>) -> Self {
        let (kind, text) = match &cause {
            Cause::InvalidCertificate(error) => certificate(error, peer),
            Cause::AlertReceived(alert) => alert_received(*alert, peer),
            Cause::InvalidMessage(message) => not_understood(*message, peer),
            Cause::NoCertificatesPresented => match peer {
                Peer::Server(_) => (TlsErrorKind::BadCertificate, format!("{peer} presents no certificate")),
                Peer::Client => {
                    (TlsErrorKind::BadCertificate, "the client presents no certificate, and has to".to_owned())
                }
            },
            Cause::PeerIncompatible(what) => (TlsErrorKind::NothingInCommon, incompatible(what, peer)),
            Cause::NoApplicationProtocol => {
                let text =
                    format!("{peer} and this end have no protocol in common (ALPN): WebSocket begins with http/1.1");
                (TlsErrorKind::NothingInCommon, text)
            }
            Cause::DecryptError | Cause::PeerSentOversizedRecord => {
                (TlsErrorKind::Protocol, format!("what {peer} sent was damaged on its way: {cause}"))
            }
            Cause::PeerMisbehaved(_)
            | Cause::InappropriateMessage { .. }
            | Cause::InappropriateHandshakeMessage { .. } => {
                (TlsErrorKind::Protocol, format!("{peer} broke the rules of TLS: {cause}"))
            }
            Cause::FailedToGetCurrentTime => (TlsErrorKind::Other, "this machine does not know the time".to_owned()),
            Cause::FailedToGetRandomBytes => (TlsErrorKind::Other, "the system gives no random numbers".to_owned()),
            // TLS 1.3 takes new keys in time. Here the limit is 2^24 records with AES-GCM.
            Cause::EncryptError => {
                let text = format!(
                    "the keys of TLS 1.2 with {peer} are used up: a new connection is needed after so many messages"
                );
                (TlsErrorKind::Other, text)
            }
            // Perhaps of a verifier of the application's own.
            other => (TlsErrorKind::Other, format!("TLS with {peer} failed: {}", foreign::display_text(other))),
        };
        let may_pass = match kind {
            TlsErrorKind::Expired | TlsErrorKind::NotValidYet | TlsErrorKind::Protocol | TlsErrorKind::Other => true,
            TlsErrorKind::OurCertificate => matches!(cause, Cause::AlertReceived(AlertDescription::CertificateExpired)),
            _ => false,
        };
        Self { kind, text: Escaped(text).to_string(), may_pass, cause: Some(Box::new(cause)) }
    }

    /// What it is about.
    pub fn kind(&self) -> TlsErrorKind {
        self.kind
    }

    /// Whether it is pointless for a client to retry: the next attempt would fail in the same way, unless somebody
    /// changes something at either end. An expired certificate is not fatal, nor is one that is not valid yet: both
    /// pass.
    pub fn is_fatal(&self) -> bool {
        !self.may_pass
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for TlsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server(name) => name,
            Self::Client => "the client",
        })
    }
}

/// What is wrong with the peer's certificate.
fn certificate(error: &CertificateError, peer: Peer<'_>) -> (TlsErrorKind, String) {
    use TlsErrorKind as Kind;
    let of = format!("the certificate of {peer}");
    match error {
        CertificateError::Expired => (Kind::Expired, format!("{of} has expired: it has to be renewed there")),
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = text::rough(Duration::from_secs(time.as_secs().saturating_sub(not_after.as_secs())));
            (Kind::Expired, format!("{of} expired {ago} ago, on {}: it has to be renewed there", date(*not_after)))
        }
        CertificateError::NotValidYet => {
            (Kind::NotValidYet, format!("{of} is not valid yet: is this machine's clock right?"))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (now, from) = (date(*time), date(*not_before));
            (
                Kind::NotValidYet,
                format!("{of} is not valid before {from}, and this machine's clock says {now}: is the clock right?"),
            )
        }
        CertificateError::NotValidForName => (Kind::WrongName, format!("{of} is for another name")),
        CertificateError::NotValidForNameContext { expected, presented } => {
            (Kind::WrongName, wrong_name(&of, expected, presented))
        }
        CertificateError::UnknownIssuer => (
            Kind::UnknownIssuer,
            match peer {
                Peer::Server(_) => format!(
                    "{of} comes from an issuer that is not trusted here: if that is your own CA, name the file of its \
                 certificate; otherwise the server may have left out its intermediate certificates"
                ),
                Peer::Client => format!("{of} does not come from a CA that the server trusts for clients"),
            },
        ),
        CertificateError::Revoked => {
            (Kind::BadCertificate, format!("{of} has been revoked: it has to be replaced there"))
        }
        CertificateError::BadSignature => (
            Kind::BadCertificate,
            format!(
                "a signature in {of}, or made with its key, is wrong: an issuer of the same name may have another key, \
             as a CA that was made anew has"
            ),
        ),
        CertificateError::BadEncoding => (Kind::BadCertificate, format!("{of} is broken (its encoding is wrong)")),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            let purpose = match peer {
                Peer::Server(_) => "servers (extendedKeyUsage=serverAuth)",
                Peer::Client => "clients (extendedKeyUsage=clientAuth)",
            };
            (Kind::BadCertificate, format!("{of} is not made for {purpose}"))
        }
        // It has no variant of its own.
        CertificateError::Other(other) if foreign::display_text(other) == "CaUsedAsEndEntity" => (
            Kind::CaAsServer,
            format!(
                "{of} is that of a CA, which signs others and must not be used by a server or a client itself: have \
             one made with basicConstraints=CA:FALSE (`openssl req -x509` makes a CA unless it is told \
             -addext basicConstraints=critical,CA:FALSE)"
            ),
        ),
        CertificateError::Other(other) => {
            (Kind::BadCertificate, format!("{of} cannot be used: {}", foreign::display_text(other)))
        }
        other => (Kind::BadCertificate, format!("{of} cannot be used: {other}")),
    }
}

fn wrong_name(of: &str, expected: &ServerName<'_>, presented: &[String]) -> String {
    /// The peer chooses how many names there are, and how long they are.
    const SHOWN: usize = 5;
    let expected = expected.to_str();
    let mut names: Vec<String> =
        presented.iter().take(SHOWN).map(|name| bare(name).chars().take(100).collect()).collect();
    if presented.len() > SHOWN {
        names.push(format!("{} more", presented.len() - SHOWN));
    }
    match names.is_empty() {
        true => format!(
            "{of} is for no name at all (it has no subjectAltName; its common name does not count), so not for \
             {expected}: have one made with subjectAltName={expected}"
        ),
        false => format!(
            "{of} is for {}, and not for {expected}: connect by one of its names, or have one made for this name",
            names.join(", ")
        ),
    }
}

/// A name without the kind that rustls writes around it: `DnsName("example.org")`, `IpAddress(10.0.0.1)`.
fn bare(name: &str) -> &str {
    match name.split_once('(') {
        Some(("DnsName" | "IpAddress", rest)) => rest.trim_end_matches(')').trim_matches('"'),
        _ => name,
    }
}

/// What the peer says is wrong.
fn alert_received(alert: AlertDescription, peer: Peer<'_>) -> (TlsErrorKind, String) {
    use AlertDescription as Alert;
    use TlsErrorKind as Kind;
    let said = format!("alert {}", alert_name(alert));
    let is_server = matches!(peer, Peer::Server(_));
    match alert {
        Alert::CertificateRequired => {
            (Kind::OurCertificate, format!("{peer} asks for a client certificate, and none is set ({said})"))
        }
        Alert::UnknownCA if is_server => {
            (Kind::OurCertificate, format!("{peer} does not trust the issuer of our client certificate ({said})"))
        }
        Alert::UnknownCA => (
            Kind::OurCertificate,
            format!(
                "{peer} does not trust the issuer of our certificate: it needs the certificate of our CA, or we have \
             left out intermediate certificates ({said})"
            ),
        ),
        Alert::CertificateExpired => {
            (Kind::OurCertificate, format!("{peer} says that our certificate has expired or is not valid yet ({said})"))
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateUnknown
        | Alert::AccessDenied => (Kind::OurCertificate, format!("{peer} does not accept our certificate ({said})")),
        Alert::ProtocolVersion => (
            Kind::NothingInCommon,
            format!("{peer} has no version of TLS in common with us: we speak 1.2 and 1.3 ({said})"),
        ),
        Alert::NoApplicationProtocol => {
            let text = format!("{peer} does not speak http/1.1, with which WebSocket begins, at this port ({said})");
            (Kind::NothingInCommon, text)
        }
        Alert::HandshakeFailure | Alert::InsufficientSecurity => {
            let text = format!(
                "{peer} finds nothing in common with us: cipher suites, curves or kinds of certificates; or it asks \
                 for a client certificate ({said})"
            );
            (Kind::NothingInCommon, text)
        }
        Alert::UnrecognisedName => (Kind::WrongName, format!("{peer} has no certificate for that name ({said})")),
        Alert::DecryptError | Alert::BadRecordMac => (
            Kind::Protocol,
            format!("{peer} says that what we sent was damaged on its way, or wrongly signed ({said})"),
        ),
        _ => (Kind::Other, format!("{peer} ended TLS ({said})")),
    }
}

/// The name of an alert in RFC 8446, of which rustls has another spelling.
fn alert_name(alert: AlertDescription) -> String {
    if let AlertDescription::Unknown(number) = alert {
        return number.to_string();
    }
    let spelled = format!("{alert:?}")
        .replace("CA", "Ca")
        .replace("Recognised", "Recognized")
        .replace("recognised", "recognized");
    let mut name = String::new();
    for char in spelled.chars() {
        if char.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(char.to_ascii_lowercase());
    }
    name
}

fn not_understood(message: InvalidMessage, peer: Peer<'_>) -> (TlsErrorKind, String) {
    match message {
        // The first byte is no record's, or the version that follows is none: HTTP, SSH, anything.
        InvalidMessage::InvalidContentType
        | InvalidMessage::UnknownProtocolVersion
        | InvalidMessage::MessageTooLarge => (
            TlsErrorKind::NotTls,
            match peer {
                Peer::Server(_) => {
                    format!("{peer} does not answer in TLS: is this a port for TLS (wss://), or for ws://?")
                }
                Peer::Client => "the client does not speak TLS".to_owned(),
            },
        ),
        other => (TlsErrorKind::Protocol, format!("{peer} sent a TLS message that is not valid: {other:?}")),
    }
}

fn incompatible(what: &PeerIncompatible, peer: Peer<'_>) -> String {
    match what {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => {
            format!("{peer} speaks neither TLS 1.2 nor TLS 1.3")
        }
        // An older client names none, and rustls looks for them first.
        PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            format!(
                "{peer} speaks neither TLS 1.2 nor TLS 1.3, or signs with SHA-1 only: it names no signature algorithms"
            )
        }
        what => format!("{peer} has nothing in common with us: {what:?}"),
    }
}

fn date(time: UnixTime) -> String {
    let time: Option<SystemTime> = UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    time.map_or_else(|| "a date that cannot be shown".to_owned(), text::date)
}
