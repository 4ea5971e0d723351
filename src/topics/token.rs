//! Signed tokens (JWT, RFC 7519) that say what their bearer may do, and the checks of one (RFC 8725).
//!
//! Invariants: the algorithm is that of a key and never the token's choice. Nothing in the claims is looked at before
//! the signature is verified. What is parsed before that is 8 KiB at most. No error shows any of a token.

use std::fmt;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;

use super::claims::{self, Value};
use super::grants::{Grants, GrantsError, date, text};
use super::permit::LEEWAY;
use key::TokenKey;

pub(crate) mod key;

/// Verifies tokens: that one of its keys has signed them, and that they are valid now.
///
/// A token is a JWT (RFC 7519), signed by HS256 or ES256. Its claims are those of [`Grants`], and:
///
/// - `exp`: when it expires. Required by default.
/// - `nbf`: when it becomes valid, if it is there.
/// - `iss`: the issuer. Checked if an [issuer](Self::issuer) is set.
/// - `aud`: for whom it is, a text or a list. One that names others alone is refused, and so is each that names anybody
///   if no [audience](Self::audience) is set (RFC 7519 section 4.1.3).
///
/// The clocks of the issuer and the server may differ by [`LEEWAY`](Self::LEEWAY).
///
/// The time is an argument, so a test can choose it.
///
/// ```
/// use heartwire::topics::{TokenError, TokenKey, TokenVerifier};
/// use std::time::{Duration, UNIX_EPOCH};
///
/// let verifier = TokenVerifier::new(TokenKey::hs256("0123456789abcdef0123456789abcdef")?);
/// // {"alg":"HS256"} {"sub":"alice","exp":1000}
/// let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTAwMH0.q8YcaNg7hNynZoEN5mzE0J3nHuZsDTlEuSnUqQJCBZY";
///
/// let valid = verifier.verify(token, UNIX_EPOCH + Duration::from_secs(900))?;
/// assert_eq!(valid.grants.user(), Some("alice"));
/// assert_eq!(valid.valid_for, Some(Duration::from_secs(100) + TokenVerifier::LEEWAY));
///
/// let late = verifier.verify(token, UNIX_EPOCH + Duration::from_secs(2000));
/// assert_eq!(late, Err(TokenError::Expired));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "`verify` verifies a token"]
pub struct TokenVerifier {
    keys: Vec<TokenKey>,
    audience: Option<String>,
    issuer: Option<String>,
    needs_expiry: bool,
}

/// A token that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValidToken {
    /// What its bearer may do.
    pub grants: Grants,
    /// For how long from the moment at which it was verified, the leeway included. `None`: for ever.
    pub valid_for: Option<Duration>,
}

/// Why a token is refused. Its text is for the log of the server, and shows nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// It is longer than [`TokenVerifier::MAX_TOKEN`] bytes.
    TooLong,
    /// It is no signed JWT.
    Malformed {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Its header has `crit`: it demands an extension, and none is known.
    Critical,
    /// Its header names a key (`kid`) that is not there.
    UnknownKey,
    /// Its algorithm is not that of a key that it may be signed with. `none` is such an algorithm.
    WrongAlgorithm,
    /// The signature is not that of a key: the token was forged or damaged, or another key has signed it.
    BadSignature,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It has no `exp`.
    MissingExpiry,
    /// It was issued by somebody else than the issuer that is set.
    WrongIssuer,
    /// It is not for the audience that is set; or it is for a certain audience, and none is set.
    WrongAudience,
    /// A claim has a value of the wrong type, comes twice, or cannot be granted.
    Claims(GrantsError),
}

/// What is of use in the header of a token (RFC 7515 section 4.1). Where to find a key (`jku`, `jwk`, `x5u`, `x5c`) is
/// not: the token would choose who may sign it.
struct Header {
    algorithm: String,
    key_id: Option<String>,
}

impl TokenVerifier {
    /// The longest token, in bytes.
    pub const MAX_TOKEN: usize = 8 * 1024;

    /// How much longer than its claims say a token is valid, at its beginning and at its end: five seconds.
    pub const LEEWAY: Duration = LEEWAY;

    /// Verifies tokens that this key has signed.
    pub fn new(key: TokenKey) -> Self {
        Self { keys: vec![key], audience: None, issuer: None, needs_expiry: true }
    }

    /// Adds a key, so that the issuer can change from one to the other.
    ///
    /// A token that names its key (`kid`) is verified with the key [of that name](TokenKey::with_id). If there is none,
    /// it is verified with those that have no name. A token that names none is verified with each, until one fits.
    pub fn key(mut self, key: TokenKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Takes only tokens for this audience (`aud`). Default: only tokens that name none.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Takes only tokens of this issuer (`iss`). Default: whatever they name, for the key tells who has signed them.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Whether tokens without `exp` are taken too. They are valid as long as their key is here. Default: no.
    pub fn allow_without_expiry(mut self, allow: bool) -> Self {
        self.needs_expiry = !allow;
        self
    }

    /// Verifies a token: its signature, and that it is valid at this moment.
    ///
    /// # Errors
    /// What is wrong with it. Tell the client no more than that its token was refused.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<ValidToken, TokenError> {
        if token.len() > Self::MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        // RFC 7515 section 7.1. A JWE has five parts.
        let parts = token.rsplit_once('.').and_then(|(signed, signature)| {
            let (header, payload) = signed.split_once('.').filter(|(_, payload)| !payload.contains('.'))?;
            Some((signed, header, payload, signature))
        });
        let (signed, header, payload, signature) = parts.ok_or(malformed("it does not have three parts"))?;
        let header = Header::read(&decode(header)?)?;
        self.check_signature(&header, signed, &decode(signature)?)?;
        self.check_claims(&decode(payload)?, now)
    }

    fn check_signature(&self, header: &Header, signed: &str, signature: &[u8]) -> Result<(), TokenError> {
        let key_id = header.key_id.as_deref();
        let is_named = |key: &&TokenKey| key_id.is_some() && key.id() == key_id;
        let is_possible = |key: &&TokenKey| match key_id {
            Some(_) if self.keys.iter().any(|key| is_named(&key)) => is_named(key),
            Some(_) => key.id().is_none(),
            None => true,
        };
        let mut possible = self.keys.iter().filter(is_possible).peekable();
        possible.peek().ok_or(TokenError::UnknownKey)?;
        let mut fitting = possible.filter(|key| key.algorithm() == header.algorithm).peekable();
        fitting.peek().ok_or(TokenError::WrongAlgorithm)?;
        let is_signed = fitting.any(|key| key.verifies(signed.as_bytes(), signature));
        if is_signed { Ok(()) } else { Err(TokenError::BadSignature) }
    }

    fn check_claims(&self, json: &[u8], now: SystemTime) -> Result<ValidToken, TokenError> {
        let grants = Grants::from_json(json)?;
        let [not_before, issuer, audience] = claims::read(json, ["nbf", "iss", "aud"]).map_err(GrantsError::from)?;
        let not_before = not_before.map(|value| date("nbf", &value)).transpose()?;
        let issuer = text("iss", issuer)?;
        // Those that have expired are told first: that is what happens to good tokens.
        let valid_for = match grants.expires() {
            Some(expires) => match (expires + Self::LEEWAY).duration_since(now) {
                Ok(rest) if !rest.is_zero() => Some(rest),
                _ => return Err(TokenError::Expired),
            },
            None if self.needs_expiry => return Err(TokenError::MissingExpiry),
            None => None,
        };
        if not_before.is_some_and(|begin| begin.duration_since(now).is_ok_and(|wait| wait > Self::LEEWAY)) {
            return Err(TokenError::NotYetValid);
        }
        if self.issuer.is_some() && self.issuer != issuer {
            return Err(TokenError::WrongIssuer);
        }
        self.check_audience(audience)?;
        Ok(ValidToken { grants, valid_for })
    }

    fn check_audience(&self, named: Option<Value>) -> Result<(), TokenError> {
        let wrong_type = GrantsError::WrongType { member: "aud", expected: "a text or a list of texts" };
        let named = match named {
            None => Vec::new(),
            Some(Value::Text(name)) => vec![name],
            Some(Value::List(items)) if items.len() > claims::MAX_ITEMS => {
                return Err(GrantsError::TooMany { member: "aud" }.into());
            }
            Some(Value::List(items)) => items.into_iter().collect::<Option<_>>().ok_or(wrong_type)?,
            Some(_) => return Err(wrong_type.into()),
        };
        let is_for_us = match &self.audience {
            Some(audience) => named.contains(audience),
            None => named.is_empty(),
        };
        if is_for_us { Ok(()) } else { Err(TokenError::WrongAudience) }
    }
}

impl Header {
    fn read(json: &[u8]) -> Result<Self, TokenError> {
        let [algorithm, key_id, critical] = claims::read(json, ["alg", "kid", "crit"])
            .map_err(|_| malformed("its header is no JSON object, or has a member twice"))?;
        if critical.is_some() {
            return Err(TokenError::Critical);
        }
        let Some(Value::Text(algorithm)) = algorithm else { return Err(malformed("its header names no algorithm")) };
        let key_id = match key_id {
            None => None,
            Some(Value::Text(id)) => Some(id),
            Some(_) => return Err(malformed("\"kid\" in its header is not a text")),
        };
        Ok(Self { algorithm, key_id })
    }
}

/// A part of a token. It has one spelling: without padding, and with no bits to spare.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| malformed("a part of it is not base64url"))
}

fn malformed(why: &'static str) -> TokenError {
    TokenError::Malformed { why }
}

impl From<GrantsError> for TokenError {
    fn from(error: GrantsError) -> Self {
        Self::Claims(error)
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => return write!(f, "the token is longer than {} bytes", TokenVerifier::MAX_TOKEN),
            Self::Malformed { why } => return write!(f, "the token is not a signed JWT: {why}"),
            Self::Critical => "the token demands an extension (crit), and none is known here",
            Self::UnknownKey => "the token names a key (kid) that is not among those set here",
            Self::WrongAlgorithm => "the token's algorithm is not that of the key: HS256 for a secret, ES256 for PEM",
            Self::BadSignature => "the token's signature is wrong: it was made with another key, or forged",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet (nbf): is the clock right, here and at its issuer?",
            Self::MissingExpiry => "the token never expires (it has no exp), which is not allowed here",
            Self::WrongIssuer => "the token was issued by somebody else (iss) than is set here",
            Self::WrongAudience => "the token is for another audience (aud) than is set here",
            Self::Claims(error) => return write!(f, "the token's claims cannot be used: {error}"),
        })
    }
}

impl std::error::Error for TokenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Claims(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
