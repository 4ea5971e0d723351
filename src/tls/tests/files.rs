//! Files that cannot be used, and what is never shown.

use super::*;

#[test]
fn files_that_cannot_be_used_are_named() {
    let ca = ca("a CA");
    let folder = Folder::new();
    let [made, other] = [(); 2].map(|()| for_names(&ca, &["example.org"]));
    let chain = folder.file("chain.pem", &made.chain);
    let key = folder.file("key.pem", &made.key);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let missing = folder.0.join("missing.pem");
    for (chain, key, named, text) in [
        (&missing, &key, &missing, "cannot read"),
        (&chain, &missing, &missing, "cannot read"),
        (&folder.0, &key, &folder.0, "cannot read"),
        (&key, &key, &key, "has no certificate in it"),
        (&chain, &chain, &chain, "has no private key in it"),
        (&chain, &folder.file("a", encrypted), &folder.0.join("a"), "encrypted with a passphrase"),
        (&chain, &folder.file("b", nonsense), &folder.0.join("b"), "cannot be used"),
        (&chain, &folder.file("c", other.key), &folder.0.join("c"), "does not belong to the first certificate"),
        (&folder.file("d", ca.der()), &key, &folder.0.join("d"), "PEM is expected"),
    ] {
        let error = ServerTls::from_pem_files(chain, key).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(named.to_str().unwrap()) && shown.contains(text), "{shown}");
        assert_eq!((error.kind(), error.is_fatal()), (TlsErrorKind::Files, true));
        let of_client = ClientTls::new().client_certificate_files(chain, key).unwrap_err();
        assert_eq!(of_client.to_string(), shown);
    }
    // Both in one file, as some tools write them.
    let both = folder.file("both.pem", made.key + &made.chain);
    ServerTls::from_pem_files(&both, &both).unwrap();
    // Without an end: it is not read for ever.
    #[cfg(target_os = "linux")]
    assert!(ClientTls::new().ca_file("/dev/zero").unwrap_err().to_string().contains("too large"));
}

#[test]
fn neither_debug_output_nor_errors_show_keys_or_certificates() {
    let ca = ca("a CA");
    let folder = Folder::new();
    let made = for_names(&ca, &["example.org"]);
    let server = made.server().require_client_certificates(folder.file("ca", ca.pem())).unwrap();
    let client = trusting(&ca).client_certificate_pem(&made.chain, &made.key).unwrap();
    client.config().unwrap();
    let chain = folder.file("chain.pem", &made.chain);
    // Its lines are cut, so that parsing fails among them.
    let cut = folder.file("cut.pem", made.key.replace("-----END", "----END"));
    let wrong = [
        ServerTls::from_pem_files(&chain, &cut).unwrap_err(),
        ServerTls::from_pem_files(&chain, folder.file("other", for_names(&ca, &[]).key)).unwrap_err(),
        fails(&trusting(&self::ca("another")), &server).client.unwrap(),
    ];
    let mut shown = vec![format!("{server:?} {server:#?}"), format!("{client:?} {client:#?}")];
    shown.extend(wrong.iter().map(|error| format!("{error} {error:?} {error:#?}")));
    let secrets: Vec<&str> = [&made.key, &made.chain].into_iter().flat_map(|pem| pem.lines()).collect();
    let secrets: Vec<&str> =
        secrets.into_iter().filter(|line| !line.starts_with('-')).map(|line| &line[..12.min(line.len())]).collect();
    assert!(secrets.len() > 6);
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
    let bytes = [key.secret_der(), &made.der()].map(|der| {
        let middle = &der[der.len() / 2..][..6];
        let decimal: Vec<String> = middle.iter().map(u8::to_string).collect();
        let hexadecimal: String = middle.iter().map(|byte| format!("{byte:02x}")).collect();
        [decimal.join(", "), hexadecimal]
    });
    for shown in shown {
        assert!(shown.contains("example.org") || shown.contains("Tls"), "{shown}");
        assert!(!secrets.iter().any(|secret| shown.contains(secret)), "{shown}");
        let lower = shown.to_lowercase();
        let one_line = lower.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!bytes.as_flattened().iter().any(|secret| one_line.contains(&**secret)), "{shown}");
    }
    // It would be seen: a control.
    let control = format!("{:?}", made.der().as_ref());
    assert!(control.contains(&bytes[1][0]));
}
