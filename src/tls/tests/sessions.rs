//! Protocols and sessions.

use super::*;

#[test]
fn only_an_offer_of_protocols_without_http_1_1_is_refused() {
    let ca = ca("a CA");
    let server = for_names(&ca, &["example.org"]).server();
    let both = [&TLS12, &TLS13];
    for (offered, chosen) in [(&[][..], None), (&["h2", "http/1.1"], Some(ALPN))] {
        let pair = connect(&client_of(&both, offered, &ca), &server).unwrap();
        assert_eq!(pair.server.alpn_protocol(), chosen);
    }
    let Failed { client, server } = fails(&client_of(&both, &["h2"], &ca), &server);
    for error in [client.unwrap(), server.unwrap()] {
        assert_eq!((error.kind(), error.is_fatal()), (TlsErrorKind::NothingInCommon, true), "{error}");
        assert!(error.to_string().contains("http/1.1"), "{error}");
    }
}

#[test]
fn what_is_no_tls_is_named_at_both_ends() {
    let ca = ca("a CA");
    let pair = || Pair::new(&trusting(&ca), &for_names(&ca, &["example.org"]).server(), "example.org");
    let texts =
        ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.6\r\n", "GET / HTTP/1.1\r\n\r\n", "220 mail\r\n"];
    for text in texts {
        let mut pair = pair();
        pair.client.read_tls(&mut text.as_bytes()).unwrap();
        let error = pair.client.process_new_packets().unwrap_err();
        let error = TlsError::of_connection(error, Peer::Server("example.org:80"));
        assert_eq!((error.kind(), error.is_fatal()), (TlsErrorKind::NotTls, true), "{error}");
        assert!(error.to_string().starts_with("example.org:80 does not answer in TLS"), "{error}");
        pair.server.read_tls(&mut text.as_bytes()).unwrap();
        let error = TlsError::of_connection(pair.server.process_new_packets().unwrap_err(), Peer::Client);
        assert_eq!(error.kind(), TlsErrorKind::NotTls, "{error}");
    }
}

/// Whether two connections in a row, with what the server sends after the first, resume.
fn resumes(client: &ClientTls, server: &ServerTls, between: impl FnOnce()) -> bool {
    let first = connect(client, server).unwrap();
    assert_eq!(first.server.handshake_kind(), Some(HandshakeKind::Full));
    between();
    let second = connect(client, server).unwrap();
    assert_eq!(second.client.handshake_kind(), second.server.handshake_kind());
    // Whoever resumes is who it was.
    assert_eq!(first.server.peer_certificates(), second.server.peer_certificates());
    second.server.handshake_kind() == Some(HandshakeKind::Resumed)
}

#[test]
fn sessions_are_resumed_with_both_versions_and_without_early_data() {
    let ca = ca("a CA");
    let server = for_names(&ca, &["example.org"]).server();
    assert!(resumes(&trusting(&ca), &server, || {}));
    for version in [&TLS12, &TLS13] {
        assert!(resumes(&client_of(&[version], &[], &ca), &server, || {}), "{version:?}");
    }
    // Another client begins anew: what is resumed belongs to the client.
    let client = trusting(&ca);
    connect(&client, &server).unwrap();
    assert_eq!(connect(&trusting(&ca), &server).unwrap().server.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(server.config().max_early_data_size, 0);
}

#[test]
fn a_new_certificate_ends_no_session_but_other_client_cas_and_a_reload_of_the_client_do() {
    let (ca, devices) = (ca("a CA"), ca("devices"));
    let folder = Folder::new();
    let [first, second] = [(); 2].map(|()| for_names(&ca, &["example.org"]));
    let (chain, key) = (folder.file("pem", &first.chain), folder.file("key", &first.key));
    let clients = folder.file("ca", devices.pem());
    let server = ServerTls::from_pem_files(&chain, &key).unwrap().require_client_certificates(&clients).unwrap();
    let made = device(&devices, "d");
    let client = || trusting(&ca).client_certificate_pem(&made.chain, &made.key).unwrap();
    assert!(resumes(&client(), &server, || {}));
    assert!(resumes(&client(), &server, || {
        folder.file("pem", &second.chain);
        folder.file("key", &second.key);
        server.reload().unwrap();
    }));
    let reloaded = client();
    assert!(!resumes(&reloaded, &server, || reloaded.reload().unwrap()));
    // The CA is still trusted, so that the handshake succeeds; but the tickets are from before another came along.
    assert!(!resumes(&client(), &server, || {
        folder.file("ca", devices.pem() + &ca.pem());
        server.reload().unwrap();
    }));
    // A client whose CA is trusted no longer does not come in by its session.
    let client = client();
    connect(&client, &server).unwrap();
    folder.file("ca", ca.pem());
    server.reload().unwrap();
    assert_eq!(fails(&client, &server).server.unwrap().kind(), TlsErrorKind::UnknownIssuer);
}
