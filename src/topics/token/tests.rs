//! Tokens of every wrong kind, and the right ones.

use std::thread;
use std::time::UNIX_EPOCH;

use data_encoding::BASE64;
use proptest::prelude::*;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use super::*;
use crate::fuzz::{self, Mutation};
use crate::settings::SMALLEST_STACK;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";
const CLAIMS: &str = r#"{"sub":"alice","subscribe":["news"],"exp":2000}"#;

/// Whoever issues tokens.
pub(super) enum Signer {
    Hs256(hmac::Key),
    Es256(EcdsaKeyPair),
}

impl Signer {
    pub(super) fn hs256(secret: impl AsRef<[u8]>) -> Self {
        Self::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()))
    }

    /// With a key of its own.
    pub(super) fn es256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Es256(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
    }

    /// The public key for ES256.
    pub(super) fn point(&self) -> &[u8] {
        match self {
            Self::Es256(pair) => pair.public_key().as_ref(),
            Self::Hs256(_) => panic!("a secret has no public key"),
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Hs256(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Es256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
        }
    }

    /// The token with this header and these claims, whatever they are.
    fn token(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }
}

fn encode(part: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(part.as_ref())
}

/// A SubjectPublicKeyInfo on P-256, in PEM.
pub(super) fn public_pem(point: &[u8]) -> String {
    let before =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\0";
    let body = BASE64.encode(&[&before[..], point].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{}\n{}\n-----END PUBLIC KEY-----\n", &body[..64], &body[64..])
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn verifier() -> TokenVerifier {
    TokenVerifier::new(TokenKey::hs256(SECRET).unwrap())
}

/// A token of the right issuer.
fn signed(claims: &str) -> String {
    Signer::hs256(SECRET).token(r#"{"typ":"JWT","alg":"HS256"}"#, claims)
}

fn refused(token: &str) -> TokenError {
    verifier().verify(token, at(1000)).unwrap_err()
}

#[test]
fn verify_takes_the_example_of_the_rfc() {
    // RFC 7515 appendix A.1: the first token that anybody has seen.
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let key = TokenKey::hs256(BASE64URL_NOPAD.decode(secret.as_bytes()).unwrap()).unwrap();
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9\
                 leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let verifier = TokenVerifier::new(key).issuer("joe");
    let valid = verifier.verify(token, at(1_300_819_000)).unwrap();
    assert_eq!(valid.grants.expires(), Some(at(1_300_819_380)));
}

#[test]
fn verify_takes_the_example_of_the_rfc_for_es256() {
    // RFC 7515 appendix A.3.
    let x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    // In two, for the words in it.
    let y = ["x_FEzRu9m36HLN_tue659LNpXW6pCySt", "ikYjKIWI5a0"].concat();
    let coordinate = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
    let point = [vec![4], coordinate(x), coordinate(&y)].concat();
    let verifier = TokenVerifier::new(TokenKey::es256_pem(public_pem(&point)).unwrap());
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y\
                 b290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    assert!(verifier.verify(token, at(1_300_819_000)).is_ok());
    assert_eq!(verifier.verify(&token.replace("Dt", "Du"), at(1_300_819_000)), Err(TokenError::BadSignature));
}

#[test]
fn verify_gives_the_grants_and_for_how_long() {
    let valid = verifier().verify(&signed(CLAIMS), at(1000)).unwrap();
    assert_eq!(valid.grants, Grants::from_json(CLAIMS.as_bytes()).unwrap());
    assert_eq!(valid.valid_for, Some(Duration::from_secs(1000) + TokenVerifier::LEEWAY));
}

#[test]
fn verify_takes_only_the_algorithm_of_the_key() {
    let pair = Signer::es256();
    let pem = public_pem(pair.point());
    let es256 = TokenVerifier::new(TokenKey::es256_pem(&pem).unwrap());
    assert!(es256.verify(&pair.token(r#"{"alg":"ES256"}"#, CLAIMS), at(1000)).is_ok());

    // Confusion: the public key, which everybody has, as a secret. In each form that it has.
    for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), pair.point(), &pair.point()[1..]] {
        let forger = Signer::hs256(secret);
        for (header, error) in
            [(r#"{"alg":"HS256"}"#, TokenError::WrongAlgorithm), (r#"{"alg":"ES256"}"#, TokenError::BadSignature)]
        {
            assert_eq!(es256.verify(&forger.token(header, CLAIMS), at(1000)), Err(error));
        }
    }
    for algorithm in ["none", "None", "nOnE", "NONE", "", "hs256", "HS384", "HS512", "RS256", "ES256", "HS256 "] {
        let header = format!(r#"{{"alg":"{algorithm}"}}"#);
        let unsigned = format!("{}.{}.", encode(&header), encode(CLAIMS));
        assert_eq!(refused(&unsigned), TokenError::WrongAlgorithm, "{algorithm}");
        let token = Signer::hs256(SECRET).token(&header, CLAIMS);
        assert_eq!(refused(&token), TokenError::WrongAlgorithm, "{algorithm}");
    }
    // With both kinds of keys the token's algorithm chooses among them, and no more.
    let both = es256.key(TokenKey::hs256(SECRET).unwrap());
    assert!(both.verify(&signed(CLAIMS), at(1000)).is_ok());
    assert!(both.verify(&pair.token(r#"{"alg":"ES256"}"#, CLAIMS), at(1000)).is_ok());
    let confused = Signer::hs256(&pem).token(r#"{"alg":"HS256"}"#, CLAIMS);
    assert_eq!(both.verify(&confused, at(1000)), Err(TokenError::BadSignature));
}

#[test]
fn verify_refuses_signatures_of_others() {
    let header = r#"{"alg":"HS256"}"#;
    assert_eq!(refused(&Signer::hs256(OTHER).token(header, CLAIMS)), TokenError::BadSignature);
    let token = signed(CLAIMS);
    let (message, signature) = token.rsplit_once('.').unwrap();
    // Nothing, a part, more, and the right one of another text.
    let raw = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    for wrong in [&[][..], &raw[..31], &raw[..16], &[&raw[..], &[0]].concat(), &[0; 32], &[0; 64]] {
        assert_eq!(refused(&format!("{message}.{}", encode(wrong))), TokenError::BadSignature, "{wrong:?}");
    }
    let (header, _) = message.split_once('.').unwrap();
    let raised = encode(CLAIMS.replace("news", "*"));
    assert_eq!(refused(&format!("{header}.{raised}.{signature}")), TokenError::BadSignature);
    // ECDSA's own traps: zeros, and r and s as large as the order of the curve.
    let es256 = TokenVerifier::new(TokenKey::es256_pem(public_pem(Signer::es256().point())).unwrap());
    let signed = format!("{}.{}", encode(r#"{"alg":"ES256"}"#), encode(CLAIMS));
    let order = b"\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\
                  \xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51";
    for signature in [&[0; 64][..], &[255; 64], &[&order[..], order].concat(), &[1; 63], &[]] {
        let token = format!("{signed}.{}", encode(signature));
        assert_eq!(es256.verify(&token, at(1000)), Err(TokenError::BadSignature), "{signature:?}");
    }
}

#[test]
fn verify_refuses_what_is_no_token() {
    let token = signed(CLAIMS);
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("{token}") };
    let wrong = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        header.into(),
        format!("{header}.{claims}"),
        format!(".{claims}.{signature}"),
        format!("{token}."),
        format!("{token}.{signature}"),
        format!(".{token}"),
        // A JWE has five parts.
        format!("{token}.{signature}.{signature}"),
        // Base64 with padding, of the other alphabet, with space, and with a bit too much.
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}.{signature}="),
        format!("{header}.{claims}.+{}", &signature[1..]),
        format!("{header}.{claims}. {}", &signature[1..]),
        format!("{header}.{claims}.{}", &signature[1..]) + "\n",
        format!("{header}.{claims}.{}é", &signature[2..]),
        format!("{header}.{claims}.{}", &signature[2..]),
        format!("Bearer {token}"),
        format!("\"{token}\""),
    ];
    for token in wrong {
        assert!(matches!(refused(&token), TokenError::Malformed { .. }), "{token}: {}", refused(&token));
    }
    // The last digit of 32 bytes has two bits to spare, so there are four spellings but for the check.
    let last = signature.as_bytes()[signature.len() - 1];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.iter().position(|digit| *digit == last).unwrap();
    let other = format!("{header}.{claims}.{}{}", &signature[..signature.len() - 1], alphabet[place + 1] as char);
    assert!(matches!(refused(&other), TokenError::Malformed { .. }), "{other}");
    // Each cut, wherever it is.
    for end in 0..token.len() {
        assert!(verifier().verify(&token[..end], at(1000)).is_err(), "{end}");
    }
}

#[test]
fn verify_refuses_headers_that_are_not_clear() {
    let with_header = |header: &str| refused(&Signer::hs256(SECRET).token(header, CLAIMS));
    for header in [
        "",
        "{}",
        "[]",
        "null",
        "HS256",
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"ALG":"HS256"}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","\u0061lg":"none"}"#,
        r#"{"alg":"HS256","kid":1}"#,
        r#"{"alg":"HS256","kid":null}"#,
        r#"{"alg":"HS256","kid":"a","kid":"b"}"#,
        r#"{"alg":"HS256"} x"#,
    ] {
        assert!(matches!(with_header(header), TokenError::Malformed { .. }), "{header}: {}", with_header(header));
    }
    for header in [
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","crit":null}"#,
    ] {
        assert_eq!(with_header(header), TokenError::Critical, "{header}");
    }
    // Where the token says that its key is: nobody looks.
    let key = encode(OTHER);
    let jwk = format!(r#"{{"alg":"HS256","jwk":{{"kty":"oct","k":"{key}"}},"jku":"http://e/"}}"#);
    assert_eq!(refused(&Signer::hs256(OTHER).token(jwk, CLAIMS)), TokenError::BadSignature);
}

#[test]
fn verify_chooses_the_key_that_the_token_names() {
    let key = |secret: &str| TokenKey::hs256(secret).unwrap();
    let token = |secret: &str, id: &str| Signer::hs256(secret).token(format!(r#"{{"alg":"HS256"{id}}}"#), CLAIMS);
    let [old, new, none, other] = [r#","kid":"old""#, r#","kid":"new""#, "", r#","kid":"other""#];

    let named = TokenVerifier::new(key(SECRET).with_id("old")).key(key(OTHER).with_id("new"));
    for (secret, id, outcome) in [
        (SECRET, old, None),
        (OTHER, new, None),
        (SECRET, new, Some(TokenError::BadSignature)),
        (OTHER, old, Some(TokenError::BadSignature)),
        (SECRET, none, None),
        (OTHER, none, None),
        (SECRET, other, Some(TokenError::UnknownKey)),
    ] {
        assert_eq!(named.verify(&token(secret, id), at(1000)).err(), outcome, "{secret} {id}");
    }
    let mixed = TokenVerifier::new(key(SECRET)).key(key(OTHER).with_id("new"));
    for (secret, id, outcome) in [
        (SECRET, other, None),
        (SECRET, none, None),
        (SECRET, new, Some(TokenError::BadSignature)),
        (OTHER, new, None),
        (OTHER, other, Some(TokenError::BadSignature)),
    ] {
        assert_eq!(mixed.verify(&token(secret, id), at(1000)).err(), outcome, "{secret} {id}");
    }
    // The algorithm is that of the named key too.
    let pair = TokenKey::es256_pem(public_pem(Signer::es256().point())).unwrap().with_id("pair");
    let with_pair = TokenVerifier::new(key(SECRET).with_id("old")).key(pair);
    let confused = token(SECRET, r#","kid":"pair""#);
    assert_eq!(with_pair.verify(&confused, at(1000)), Err(TokenError::WrongAlgorithm));
}

#[test]
fn verify_keeps_the_dates_on_both_sides_of_each() {
    let leeway = TokenVerifier::LEEWAY;
    let token = signed(r#"{"nbf":1000,"exp":2000}"#);
    let verify = |now: SystemTime| verifier().verify(&token, now).map(|valid| valid.valid_for);
    let moment = Duration::from_millis(1);
    assert_eq!(verify(at(1000) - leeway - moment), Err(TokenError::NotYetValid));
    assert_eq!(verify(at(1000) - leeway), Ok(Some(Duration::from_secs(1000) + 2 * leeway)));
    assert_eq!(verify(at(1999)), Ok(Some(Duration::from_secs(1) + leeway)));
    assert_eq!(verify(at(2000) + leeway - moment), Ok(Some(moment)));
    assert_eq!(verify(at(2000) + leeway), Err(TokenError::Expired));
    assert_eq!(verify(at(1 << 33)), Err(TokenError::Expired));
    assert_eq!(verify(UNIX_EPOCH), Err(TokenError::NotYetValid));

    assert_eq!(refused("x.y.z"), malformed("a part of it is not base64url"));
    assert_eq!(refused(&signed(r#"{"exp":0}"#)), TokenError::Expired);
    assert_eq!(refused(&signed("{}")), TokenError::MissingExpiry);
    let lasting = verifier().allow_without_expiry(true);
    assert_eq!(lasting.verify(&signed("{}"), at(1000)).unwrap().valid_for, None);
    assert_eq!(lasting.verify(&signed(r#"{"exp":0}"#), at(1000)), Err(TokenError::Expired));
    assert_eq!(lasting.verify(&signed(r#"{"nbf":2000}"#), at(1000)), Err(TokenError::NotYetValid));
}

#[test]
fn verify_keeps_issuer_and_audience() {
    let verify = |verifier: TokenVerifier, claims: &str| {
        verifier.verify(&signed(&format!(r#"{{"exp":2000{claims}}}"#)), at(1000)).err()
    };
    let ours = || verifier().issuer("us").audience("topics");
    for (claims, error) in [
        (r#","iss":"us","aud":"topics""#, None),
        (r#","iss":"us","aud":["other","topics"]"#, None),
        (r#","aud":"topics""#, Some(TokenError::WrongIssuer)),
        (r#","iss":"them","aud":"topics""#, Some(TokenError::WrongIssuer)),
        (r#","iss":"us""#, Some(TokenError::WrongAudience)),
        (r#","iss":"us","aud":"other""#, Some(TokenError::WrongAudience)),
        (r#","iss":"us","aud":[]"#, Some(TokenError::WrongAudience)),
        (r#","iss":"us","aud":["topics/a"]"#, Some(TokenError::WrongAudience)),
    ] {
        assert_eq!(verify(ours(), claims), error, "{claims}");
    }
    assert_eq!(verify(verifier(), r#","iss":"anybody""#), None);
    assert_eq!(verify(verifier(), r#","aud":"topics""#), Some(TokenError::WrongAudience));
    assert_eq!(verify(verifier(), r#","aud":[]"#), None);
}

#[test]
fn verify_names_the_claim_that_is_wrong() {
    let wrong_type = |member, expected| TokenError::Claims(GrantsError::WrongType { member, expected });
    let duplicate = |member| TokenError::Claims(GrantsError::Duplicate { member });
    let claims = |claims: &str| refused(&signed(&format!(r#"{{"exp":2000{claims}}}"#)));
    for (wrong, error) in [
        (r#","sub":7"#, wrong_type("sub", "a text")),
        (r#","subscribe":"news""#, wrong_type("subscribe", "a list of texts")),
        (r#","iss":["us"]"#, wrong_type("iss", "a text")),
        (r#","nbf":"1000""#, wrong_type("nbf", "a number of seconds")),
        (r#","aud":{}"#, wrong_type("aud", "a text or a list of texts")),
        (r#","aud":["a",1]"#, wrong_type("aud", "a text or a list of texts")),
        (r#","nbf":-1"#, TokenError::Claims(GrantsError::InvalidDate { member: "nbf" })),
        (r#","exp":9000"#, duplicate("exp")),
        (r#","nbf":1,"nbf":2"#, duplicate("nbf")),
        (r#","aud":"a","aud":"b""#, duplicate("aud")),
        (r#","sub":"a","sub":"b""#, duplicate("sub")),
        (r#","sub":"a/b""#, Grants::new().for_user("a/b").unwrap_err().into()),
    ] {
        assert_eq!(claims(wrong), error, "{wrong}");
    }
    for not_json in ["", "alice", "[]", "{", r#"{"exp":2000}{}"#] {
        assert!(matches!(refused(&signed(not_json)), TokenError::Claims(_)), "{not_json}");
    }
    // A token in a token (RFC 7519 section 5.2) is not looked into.
    let nested = Signer::hs256(SECRET).token(r#"{"alg":"HS256","cty":"JWT"}"#, signed(CLAIMS));
    assert_eq!(refused(&nested), TokenError::Claims(GrantsError::NotJson));
}

#[test]
fn verify_reads_no_more_than_8_kib() {
    let long = |len: usize| {
        let mut padding = len / 2;
        loop {
            let token = signed(&format!(r#"{{"exp":2000,"x":"{}"}}"#, "x".repeat(padding)));
            if token.len() >= len {
                return token;
            }
            padding += 1;
        }
    };
    assert_eq!(long(TokenVerifier::MAX_TOKEN).len(), TokenVerifier::MAX_TOKEN);
    assert!(verifier().verify(&long(TokenVerifier::MAX_TOKEN), at(1000)).is_ok());
    assert_eq!(refused(&long(TokenVerifier::MAX_TOKEN + 1)), TokenError::TooLong);
    assert_eq!(refused(&".".repeat(10 << 20)), TokenError::TooLong);
    // As deep as it gets within that.
    let deep = format!(r#"{{"exp":2000,"x":{}{}}}"#, "[".repeat(2900), "]".repeat(2900));
    assert!(verifier().verify(&signed(&deep), at(1000)).is_ok());
    let header = format!(r#"{{"alg":"HS256","x":{}{}}}"#, "[".repeat(2900), "]".repeat(2900));
    assert!(verifier().verify(&Signer::hs256(SECRET).token(header, CLAIMS), at(1000)).is_ok());
}

#[test]
fn verify_fits_into_the_smallest_stack() {
    let pair = Signer::es256();
    let verifier = TokenVerifier::new(TokenKey::es256_pem(public_pem(pair.point())).unwrap());
    let claims = format!(r#"{{"exp":2000,"subscribe":{}{}}}"#, "[".repeat(2900), "]".repeat(2900));
    let nested = pair.token(r#"{"alg":"ES256"}"#, claims);
    let token = pair.token(r#"{"alg":"ES256"}"#, CLAIMS);
    // That of a server's connection threads, whatever is set.
    let thread = thread::Builder::new().stack_size(SMALLEST_STACK);
    let verified = thread.spawn(move || [token, nested].map(|token| verifier.verify(&token, at(1000)).err())).unwrap();
    let wrong_type = GrantsError::WrongType { member: "subscribe", expected: "a list of texts" };
    assert_eq!(verified.join().unwrap(), [None, Some(wrong_type.into())]);
}

#[test]
fn errors_and_debug_output_show_no_token_and_no_key() {
    let token = Signer::hs256(OTHER).token(r#"{"alg":"HS256","kid":"s3cret"}"#, r#"{"sub":"s3cret/x","exp":2000}"#);
    let own = Signer::hs256(SECRET).token(r#"{"alg":"HS256"}"#, r#"{"sub":"s3cret/x","exp":2000}"#);
    for token in [token.as_str(), own.as_str(), "s3cret", "s3cret.s3cret.s3cret"] {
        let error = refused(token);
        for shown in [format!("{error}"), format!("{error:?}")] {
            assert!(!shown.contains("s3cret") && !shown.contains(&token[..6]), "{shown}");
        }
    }
    let shown = format!("{:?}", verifier());
    assert!(shown.contains("HS256") && !shown.contains(&SECRET[..8]), "{shown}");
}

#[test]
fn fuzz_verify_takes_no_bytes_that_nobody_signed() {
    let both = verifier().key(TokenKey::es256_pem(public_pem(Signer::es256().point())).unwrap());
    let both = both.allow_without_expiry(true);
    let part = || prop_oneof![any::<Vec<u8>>().prop_map(encode), ".{0,40}", Just(encode(r#"{"alg":"HS256"}"#))];
    let token = prop_oneof![".{0,200}", (part(), part(), part()).prop_map(|(a, b, c)| format!("{a}.{b}.{c}"))];
    fuzz::check(&(token, any::<u32>()), |(token, now)| {
        prop_assert!(both.verify(&token, at(now.into())).is_err());
        Ok(())
    });
}

#[test]
fn fuzz_verify_takes_no_token_that_was_changed() {
    let right = signed(CLAIMS);
    fuzz::check(&Mutation::some(b".AQgw-_=eyJ"), |mutations| {
        let mut bytes = right.clone().into_bytes();
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
        let token = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(verifier().verify(&token, at(1000)).is_ok(), token == right);
        Ok(())
    });
}

#[test]
fn fuzz_verify_never_panics_on_what_the_issuer_signs() {
    fuzz::check(&(any::<bool>(), Mutation::some(br#"{}[]",:/*\0x1e.alg"#)), |(in_header, mutations)| {
        let (mut header, mut claims) = (br#"{"alg":"HS256","kid":"k"}"#.to_vec(), CLAIMS.as_bytes().to_vec());
        let changed = if in_header { &mut header } else { &mut claims };
        mutations.iter().for_each(|mutation| mutation.apply(changed));
        if let Ok(valid) = verifier().verify(&Signer::hs256(SECRET).token(header, claims), at(1000)) {
            prop_assert!(valid.valid_for.is_some_and(|rest| !rest.is_zero()));
        }
        Ok(())
    });
}
