//! Tokens by which the servers know the users (RFC 7515, HS256).

use std::time::UNIX_EPOCH;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::dice::Dice;

/// What tokens are signed with, in as many characters.
#[derive(Debug, Clone)]
pub(crate) struct Secret(pub(crate) String);

impl Secret {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "secret");
        Self((0..4).map(|_| format!("{:016x}", dice.roll(u64::MAX))).collect())
    }

    /// A token that allows all that the chaos needs, for longer than it lasts.
    pub(crate) fn token_of(&self, user: &str) -> String {
        let expires = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()) + 3600;
        let allowed = ["chaos/*", "probe"];
        let claims = json!({"sub": user, "exp": expires, "subscribe": allowed, "publish": allowed});
        let encode = |text: String| BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", encode(json!({"alg": "HS256"}).to_string()), encode(claims.to_string()));
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("a key may have any length");
        mac.update(signed.as_bytes());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
    }
}
