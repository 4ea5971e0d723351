//! A key that tokens are verified with, from memory or from a file.
//!
//! Invariants: a key has one algorithm. What could be a public key, or a file of keys in another form, is never taken
//! for a secret: everybody who knows a public key could then sign.

use std::fmt;
use std::path::Path;

use data_encoding::BASE64;
use ring::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey as Peer};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::topics::key_error::{KeyError, KeyErrorKind as Kind, read_file};

/// A key that tokens are verified with. It is for one algorithm: HS256 (HMAC with SHA-256) or ES256 (ECDSA on the curve
/// P-256 with SHA-256).
#[derive(Clone)]
pub struct TokenKey {
    id: Option<String>,
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    Hs256(hmac::Key),
    /// The public key, as an uncompressed point.
    Es256([u8; POINT]),
}

/// The bytes of an uncompressed point on P-256.
const POINT: usize = 65;

/// What stands before the point in a SubjectPublicKeyInfo (RFC 5480 section 2): there is one such encoding in DER.
const BEFORE_POINT: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl TokenKey {
    /// The shortest secret for HS256, in bytes (RFC 7518 section 3.2).
    pub const MIN_SECRET: usize = 32;

    /// The longest secret for HS256, in bytes.
    pub const MAX_SECRET: usize = 4096;

    /// A secret that the issuer of tokens shares, for HS256: at least 32 random bytes. A text, also one in base64 or
    /// hexadecimal digits, is taken as it stands.
    ///
    /// # Errors
    /// If it is too short, too long, or looks like a key of another kind (PEM, JWK, SSH).
    pub fn hs256(secret: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        let secret = secret.as_ref();
        if secret.is_empty() {
            return Err(KeyError::new(Kind::Empty, "the secret for HS256 is empty"));
        }
        if let Some(what) = other_form(secret) {
            let text = format!("the secret for HS256 looks like {what}: for ES256 give a public key in PEM");
            return Err(KeyError::new(Kind::Unsupported, text));
        }
        match secret.len() {
            len if len < Self::MIN_SECRET => {
                let text = format!(
                    "the secret for HS256 has {len} bytes, and needs {} (openssl rand -hex 32 makes one)",
                    Self::MIN_SECRET
                );
                Err(KeyError::new(Kind::TooShort, text))
            }
            len if len > Self::MAX_SECRET => {
                let text = format!("the secret for HS256 has {len} bytes, and may have {}", Self::MAX_SECRET);
                Err(KeyError::new(Kind::TooLong, text))
            }
            _ => Ok(Self { id: None, inner: Inner::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)) }),
        }
    }

    /// The public key of an issuer of tokens, in PEM (`-----BEGIN PUBLIC KEY-----`), for ES256.
    ///
    /// # Errors
    /// If there is not one such key in it, or it is not on the curve P-256. A private key is refused: what only
    /// verifies has no use for it.
    pub fn es256_pem(pem: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        let unsupported = |text: String| KeyError::new(Kind::Unsupported, text);
        let pem = std::str::from_utf8(pem.as_ref()).map_err(|_| unsupported("the key is not PEM".into()))?;
        let der = public_key(pem)?;
        let point: Option<[u8; POINT]> =
            der.strip_prefix(&BEFORE_POINT).and_then(|point| point.try_into().ok()).filter(is_on_curve);
        let point = point.ok_or_else(|| {
            let hint = "(openssl ecparam -name prime256v1 -genkey -noout makes a private one for ES256)";
            unsupported(format!("the public key is not on the curve P-256, uncompressed {hint}"))
        })?;
        Ok(Self { id: None, inner: Inner::Es256(point) })
    }

    /// Reads a key from a file: a public key in PEM is for [ES256](Self::es256_pem), anything else is a secret for
    /// [HS256](Self::hs256), without the line end after it. Only the server should be able to read a secret.
    ///
    /// # Errors
    /// If the file cannot be read, or the key cannot be used.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        read_file(path.as_ref(), |bytes| {
            if bytes.windows(BEGIN.len()).any(|part| part == BEGIN.as_bytes()) {
                return Self::es256_pem(bytes);
            }
            let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            Self::hs256(secret.strip_suffix(b"\r").unwrap_or(secret))
        })
    }

    /// Names the key, as the header of tokens does (`kid`, RFC 7515 section 4.1.4). Default: no name.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The name of its algorithm in tokens (RFC 7518 section 3.1).
    pub(super) fn algorithm(&self) -> &'static str {
        match self.inner {
            Inner::Hs256(_) => "HS256",
            Inner::Es256(_) => "ES256",
        }
    }

    /// Whether the signature is that of the message, by this key.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.inner {
            Inner::Hs256(key) => hmac::verify(key, message, signature).is_ok(),
            Inner::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
        }
    }
}

const BEGIN: &str = "-----BEGIN ";

/// What a secret must not be, if it looks like it.
fn other_form(secret: &[u8]) -> Option<&'static str> {
    let start = secret.strip_prefix(b"\xef\xbb\xbf").unwrap_or(secret).trim_ascii_start();
    let forms: [(&[u8], &str); 6] = [
        (BEGIN.as_bytes(), "PEM"),
        (b"{", "a JWK or other JSON"),
        (&BEFORE_POINT[..8], "a public key in DER"),
        // The same in base64, up to where the curve is named.
        (b"MFkwEwYHKoZIzj0C", "a public key in base64"),
        (b"ecdsa-sha2-", "a public key of SSH"),
        (b"ssh-", "a public key of SSH"),
    ];
    forms.into_iter().find(|(form, _)| start.starts_with(form)).map(|(_, what)| what)
}

/// The one public key in PEM (RFC 7468 section 13), in DER.
fn public_key(pem: &str) -> Result<Vec<u8>, KeyError> {
    const LABEL: &str = "PUBLIC KEY-----";
    let unsupported = |text: &str| Err(KeyError::new(Kind::Unsupported, text));
    let mut blocks = pem.split(BEGIN).skip(1);
    let label = |block: &str| block.lines().next().unwrap_or_default().to_owned();
    if blocks.clone().any(|block| label(block).contains("PRIVATE KEY")) {
        let text = "it has a private key, which whoever issues tokens should keep to itself: give the public one \
                    (openssl pkey -in KEY -pubout)";
        return Err(KeyError::new(Kind::PrivateKey, text));
    }
    let block = match (blocks.next(), blocks.next()) {
        (Some(block), None) => block,
        (Some(_), Some(_)) => return unsupported("there is more than one key in it: give each a file of its own"),
        (None, _) => return unsupported("it is not PEM: a line -----BEGIN PUBLIC KEY----- is expected"),
    };
    let Some(body) = block.strip_prefix(LABEL) else {
        return match label(block).starts_with("CERTIFICATE") {
            true => unsupported("it has a certificate: give its public key (openssl x509 -in FILE -pubkey -noout)"),
            false => unsupported("it has something else than a public key (-----BEGIN PUBLIC KEY-----)"),
        };
    };
    let body = body.split_once("-----END PUBLIC KEY-----").map(|(body, _)| body);
    let digits = body.map(|body| body.split_ascii_whitespace().collect::<String>());
    let der = digits.and_then(|digits| BASE64.decode(digits.as_bytes()).ok());
    der.map_or_else(|| unsupported("the public key in it is cut or damaged"), Ok)
}

/// Whether a point is on the curve. Otherwise each signature would be wrong, and nobody would know why.
fn is_on_curve(point: &[u8; POINT]) -> bool {
    // There is no other way to ask ring: it checks a point where it is used, and does not tell the reasons apart.
    let private = EphemeralPrivateKey::generate(&agreement::ECDH_P256, &SystemRandom::new());
    private.is_ok_and(|private| {
        agreement::agree_ephemeral(private, &Peer::new(&agreement::ECDH_P256, point), |_| ()).is_ok()
    })
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("algorithm", &self.algorithm()).field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
