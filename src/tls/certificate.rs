//! What a certificate says (RFC 5280), as far as people and handlers ask for it. Nothing here is verified: rustls does
//! that.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;

use super::der::{self, Der};
use super::{names, text};

/// A certificate: a client's that was verified,
/// or one that a server presents ([`ServerTls::certificates`](crate::ServerTls::certificates)).
///
/// Cloning is cheap. `Debug` shows the subject, names and dates, and none of the bytes.
#[derive(Clone)]
pub struct Certificate(Arc<Parsed>);

#[derive(PartialEq, Eq)]
struct Parsed {
    der: CertificateDer<'static>,
    fields: Fields,
}

/// What could be read of it.
#[derive(Default, PartialEq, Eq)]
struct Fields {
    subject: String,
    names: Vec<String>,
    valid_from: Option<SystemTime>,
    valid_until: Option<SystemTime>,
    is_ca: bool,
}

impl Certificate {
    pub(crate) fn new(der: &CertificateDer<'_>) -> Self {
        let fields = Fields::read(der).unwrap_or_default();
        Self(Arc::new(Parsed { der: der.clone().into_owned(), fields }))
    }

    /// The subject as text (RFC 4514), such as `CN=device-17,O=Example`. What has a meaning in this text is escaped in
    /// values, so `CN=a,O=b` has two parts and `CN=a\,O=b` has one. Empty if the certificate has no subject, which is
    /// usual where it has [`names`](Self::names).
    ///
    /// Compare it as a whole. Attributes without a short name are in the form `1.2.840.1=#0c026869`.
    pub fn subject(&self) -> &str {
        &self.0.fields.subject
    }

    /// The DNS names and IP addresses that the certificate is for, in its order (`subjectAltName`). A name may begin
    /// with `*.`, and then stands for one more label.
    pub fn names(&self) -> &[String] {
        &self.0.fields.names
    }

    /// When it becomes valid. `None` if that cannot be read.
    pub fn valid_from(&self) -> Option<SystemTime> {
        self.0.fields.valid_from
    }

    /// When it expires. `None` if that cannot be read.
    pub fn valid_until(&self) -> Option<SystemTime> {
        self.0.fields.valid_until
    }

    /// Whether it is the certificate of a CA, which signs others. rustls, and so every heartwire client, refuses such a
    /// certificate from a server. `openssl req -x509` makes them unless it is told `basicConstraints=CA:FALSE`.
    pub fn is_ca(&self) -> bool {
        self.0.fields.is_ca
    }

    /// The whole certificate, in DER.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// Its SHA-256 fingerprint, as `openssl x509 -fingerprint -sha256` and browsers show it: `AB:CD:...`.
    pub fn fingerprint(&self) -> String {
        let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() else { return String::new() };
        let hash = suite.common.hash_provider.hash(self.der());
        hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: Option<SystemTime>| time.map(text::date);
        f.debug_struct("Certificate")
            .field("subject", &self.subject())
            .field("names", &self.names())
            .field("valid_from", &date(self.valid_from()))
            .field("valid_until", &date(self.valid_until()))
            .finish_non_exhaustive()
    }
}

/// Extensions by their object identifiers.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];

impl Fields {
    fn read(der: &[u8]) -> Option<Self> {
        let mut body = Der::new(der).enter(der::SEQUENCE)?.enter(der::SEQUENCE)?;
        let _version = body.next_if(der::context(0));
        let (_serial, _algorithm, _issuer) = (body.next()?, body.next()?, body.next()?);
        let mut validity = body.enter(der::SEQUENCE)?;
        let mut fields = Self {
            valid_from: time(validity.next()?),
            valid_until: time(validity.next()?),
            subject: names::to_text(body.enter(der::SEQUENCE)?)?,
            ..Self::default()
        };
        let _public_key = body.next()?;
        let extensions = body.values().find(|value| value.tag == der::context(3));
        if let Some(mut extensions) = extensions.and_then(|value| Der::new(value.content).enter(der::SEQUENCE)) {
            while let Some(mut extension) = extensions.enter(der::SEQUENCE) {
                let oid = extension.next_if(der::OID)?;
                let _critical = extension.next_if(der::BOOLEAN);
                let mut value = Der::new(extension.next_if(der::OCTET_STRING)?);
                match oid {
                    SUBJECT_ALT_NAME => fields.names = value.enter(der::SEQUENCE)?.values().filter_map(name).collect(),
                    BASIC_CONSTRAINTS => {
                        let is_ca = value.enter(der::SEQUENCE)?.next_if(der::BOOLEAN);
                        fields.is_ca = is_ca.is_some_and(|value| value != [0]);
                    }
                    _ => {}
                }
            }
        }
        Some(fields)
    }
}

/// A `GeneralName` that is a DNS name or an IP address. One with other characters than such a name has is left out: it
/// could look like another kind.
fn name(value: der::Value<'_>) -> Option<String> {
    const DNS: u8 = der::choice(2);
    const IP: u8 = der::choice(7);
    match (value.tag, value.content) {
        (DNS, name) => {
            let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._*".contains(byte);
            (!name.is_empty() && name.iter().all(is_usual)).then(|| String::from_utf8_lossy(name).into_owned())
        }
        (IP, address) => <[u8; 4]>::try_from(address)
            .map(|address| Ipv4Addr::from(address).to_string())
            .or_else(|_| <[u8; 16]>::try_from(address).map(|address| Ipv6Addr::from(address).to_string()))
            .ok(),
        _ => None,
    }
}

/// A `Time`: `YYMMDDhhmmssZ`, from 1950 to 2049, or `YYYYMMDDhhmmssZ` (RFC 5280 section 4.1.2.5).
fn time(value: der::Value<'_>) -> Option<SystemTime> {
    let digits = value.content.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (value.tag, digits.len()) {
        (der::UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (year + if year < 50 { 2000 } else { 1900 }, &digits[2..])
        }
        (der::GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = text::days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

    use super::*;

    fn made(params: CertificateParams) -> CertificateDer<'static> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn example() -> CertificateParams {
        let mut params = CertificateParams::new(["example.org".to_owned(), "*.example.org".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.subject_alt_names.push(SanType::IpAddress(Ipv6Addr::LOCALHOST.into()));
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, "device 17");
        params.not_before = rcgen::date_time_ymd(2020, 2, 29);
        params.not_after = rcgen::date_time_ymd(2100, 12, 31);
        params
    }

    #[test]
    fn a_certificate_is_read() {
        let certificate = Certificate::new(&made(example()));
        // rcgen's own name for what has none comes first, and is replaced.
        assert_eq!(certificate.subject(), "O=Example\\, Inc.,CN=device 17");
        assert_eq!(certificate.names(), ["example.org", "*.example.org", "127.0.0.1", "::1"]);
        let [from, until] = [certificate.valid_from(), certificate.valid_until()].map(|time| text::date(time.unwrap()));
        assert_eq!((&*from, &*until), ("2020-02-29 00:00:00 UTC", "2100-12-31 00:00:00 UTC"));
        assert!(!certificate.is_ca());
        let mut ca = example();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert!(Certificate::new(&made(ca)).is_ca());
    }

    #[test]
    fn debug_shows_names_and_no_bytes() {
        let der = made(example());
        let certificate = Certificate::new(&der);
        assert_eq!(certificate.der(), &*der);
        let shown = format!("{certificate:?}");
        assert!(shown.contains("device 17") && shown.contains("2100-12-31"), "{shown}");
        assert!(shown.len() < 300, "{shown}");
    }

    #[test]
    fn fingerprints_are_those_of_sha_256() {
        let certificate = Certificate::new(&CertificateDer::from(b"abc".to_vec()));
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            certificate.fingerprint().replace(':', ""),
            "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
        );
        assert!(certificate.fingerprint().ends_with(":00:15:AD"));
    }

    #[test]
    fn times_are_read_in_both_forms() {
        let shown = |tag, content: &[u8]| time(der::Value { tag, content }).map(text::date);
        for (content, date) in [
            ("700101000000Z", "1970-01-01 00:00:00 UTC"),
            ("491231235959Z", "2049-12-31 23:59:59 UTC"),
            ("500101000000Z", "1950-01-01 00:00:00 UTC"),
        ] {
            assert_eq!(shown(der::UTC_TIME, content.as_bytes()).unwrap(), date);
        }
        let shown = |content: &str| shown(der::GENERALIZED_TIME, content.as_bytes());
        assert_eq!(shown("99991231235959Z").unwrap(), "9999-12-31 23:59:59 UTC");
        for broken in
            ["", "Z", "20260101000000", "20261301000000Z", "20260100000000Z", "20260101240000Z", "2026x101000000Z"]
        {
            assert_eq!(shown(broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn what_is_broken_anywhere_does_no_harm(at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
            let mut der = made(example()).to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            if cut {
                der.truncate(at);
            }
            let certificate = Certificate::new(&CertificateDer::from(der));
            let _ = format!("{certificate:?}");
        }
    }
}
