//! Which keys are taken, from memory and from files.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::topics::token::tests::{Signer, public_pem};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A file that is removed at the end.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("heartwire-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der))
}

fn from_file(name: &str, content: &[u8]) -> Result<TokenKey, KeyError> {
    TokenKey::from_file(&TestFile::new(name, content).0)
}

#[test]
fn hs256_takes_32_bytes_or_more() {
    for (len, kind) in [
        (0, Some(Kind::Empty)),
        (1, Some(Kind::TooShort)),
        (31, Some(Kind::TooShort)),
        (32, None),
        (4096, None),
        (4097, Some(Kind::TooLong)),
    ] {
        assert_eq!(TokenKey::hs256(vec![b'k'; len]).err().map(|error| error.kind()), kind, "{len}");
    }
}

#[test]
fn hs256_takes_nothing_that_could_be_public() {
    let signer = Signer::es256();
    let der = [&BEFORE_POINT[..], signer.point()].concat();
    let pem = public_pem(signer.point());
    let base64 = BASE64.encode(&der);
    for secret in [
        pem.as_bytes(),
        &[b"\xef\xbb\xbf\n", pem.as_bytes()].concat(),
        &der,
        base64.as_bytes(),
        br#"{"kty":"EC","crv":"P-256","x":"...","y":"..."}"#,
        b"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAI",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6",
    ] {
        let error = TokenKey::hs256(secret).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    }
}

#[test]
fn es256_pem_takes_one_public_key_on_p_256() {
    let signer = Signer::es256();
    let right = public_pem(signer.point());
    for text in [right.clone(), right.replace('\n', "\r\n"), format!("# the issuer's\n{right}\n")] {
        assert_eq!(TokenKey::es256_pem(text).unwrap().algorithm(), "ES256");
    }
    let mut off_curve = signer.point().to_vec();
    off_curve[64] ^= 1;
    let compressed = [&BEFORE_POINT[..25], &[0, 2], &signer.point()[1..33]].concat();
    for (text, kind) in [
        (String::new(), Kind::Unsupported),
        ("-----BEGIN PUBLIC KEY-----".to_owned(), Kind::Unsupported),
        (right.replace("END", "AND"), Kind::Unsupported),
        (right.replacen("MFkw", "MFkw=", 1), Kind::Unsupported),
        (right.replacen("MFkw", "MFgw", 1), Kind::Unsupported),
        (format!("{right}{right}"), Kind::Unsupported),
        (public_pem(&off_curve), Kind::Unsupported),
        (pem("PUBLIC KEY", &compressed), Kind::Unsupported),
        (pem("PUBLIC KEY", b"\x30\x00"), Kind::Unsupported),
        (pem("RSA PUBLIC KEY", b"\x30\x00"), Kind::Unsupported),
        (pem("CERTIFICATE", b"\x30\x00"), Kind::Unsupported),
        (pem("PRIVATE KEY", b"\x30\x00"), Kind::PrivateKey),
        (pem("ENCRYPTED PRIVATE KEY", b"\x30\x00"), Kind::PrivateKey),
        (pem("EC PARAMETERS", b"\x06\x00") + &pem("EC PRIVATE KEY", b"\x30\x00"), Kind::PrivateKey),
        (pem("PRIVATE KEY", b"\x30\x00") + &right, Kind::PrivateKey),
    ] {
        let error = TokenKey::es256_pem(&text).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}: {text}");
    }
    assert_eq!(TokenKey::es256_pem(b"\xff").unwrap_err().kind(), Kind::Unsupported);
    let hint = TokenKey::es256_pem(pem("PRIVATE KEY", b"\x30\x00")).unwrap_err().to_string();
    assert!(hint.contains("openssl pkey -in KEY -pubout"), "{hint}");
}

#[test]
fn from_file_tells_a_public_key_from_a_secret() {
    let public = public_pem(Signer::es256().point());
    assert_eq!(from_file("public", public.as_bytes()).unwrap().algorithm(), "ES256");
    for end in ["", "\n", "\r\n"] {
        let key = from_file("secret", format!("{SECRET}{end}").as_bytes()).unwrap();
        let signature = Signer::hs256(SECRET).sign(b"message");
        assert!(key.algorithm() == "HS256" && key.verifies(b"message", &signature), "{end:?}");
    }
    for (content, kind) in [
        (String::new(), Kind::Empty),
        ("\n".to_owned(), Kind::Empty),
        (format!("{}\n", &SECRET[1..]), Kind::TooShort),
        (pem("PRIVATE KEY", b"\x30\x00"), Kind::PrivateKey),
        (format!("\n{}", pem("EC PRIVATE KEY", b"\x30\x00")), Kind::PrivateKey),
        (pem("CERTIFICATE", b"\x30\x00"), Kind::Unsupported),
        (r#"{"keys":[{"kty":"oct","k":"MDEyMzQ1Njc4OWFiY2RlZg"}]}"#.to_owned(), Kind::Unsupported),
        ("k".repeat(5000), Kind::TooLong),
        ("k".repeat(1 << 18), Kind::TooLong),
    ] {
        let error = from_file("wrong", content.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let shown = error.to_string();
        assert!(
            shown.starts_with("key file ") && shown.contains("-wrong: ") && !shown.contains(&SECRET[1..]),
            "{shown}"
        );
    }
    assert_eq!(TokenKey::from_file("/nowhere/key").unwrap_err().kind(), Kind::Unreadable);
}

#[test]
fn debug_output_shows_no_key() {
    let key = TokenKey::hs256(SECRET).unwrap().with_id("2026");
    assert_eq!(format!("{key:?}"), r#"TokenKey { algorithm: "HS256", id: Some("2026"), .. }"#);
}
