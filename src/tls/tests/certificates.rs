//! What a client says to certificates of every kind, and which one a server presents.

use super::*;

#[test]
fn a_server_with_a_right_certificate_is_connected_to() {
    let ca = ca("a CA");
    let server = for_names(&ca, &["example.org", "127.0.0.1", "::1"]).server();
    for host in ["example.org", "EXAMPLE.org", "127.0.0.1", "::1"] {
        let pair = connect_to(host, &trusting(&ca), &server).unwrap();
        for end in [&pair.client, &pair.server] {
            assert_eq!(end.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            assert_eq!(end.alpn_protocol(), Some(ALPN));
        }
    }
}

#[test]
fn every_wrong_kind_of_certificate_is_explained() {
    use TlsErrorKind as Kind;
    let own = ca("own CA");
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2021, 2, 3);
    let not_yet = |params: &mut CertificateParams| params.not_before = date_time_ymd(3000, 1, 2);
    let for_clients =
        |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let is_ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    type Change = fn(&mut CertificateParams);
    let of_own_ca: [(Change, Kind, bool, &str); 4] = [
        (expired, Kind::Expired, false, "days ago, on 2021-02-03 00:00:00 UTC: it has to be renewed"),
        (
            not_yet,
            Kind::NotValidYet,
            false,
            "not valid before 3000-01-02 00:00:00 UTC, and this machine's clock says 2",
        ),
        (for_clients, Kind::BadCertificate, true, "not made for servers (extendedKeyUsage=serverAuth)"),
        (is_ca, Kind::CaAsServer, true, "-addext basicConstraints=critical,CA:FALSE"),
    ];
    let mut cases: Vec<(Made, Kind, bool, &str)> = of_own_ca
        .into_iter()
        .map(|(change, kind, is_fatal, text)| {
            let mut params = params(&["example.org"]);
            change(&mut params);
            (signed(&own, &params), kind, is_fatal, text)
        })
        .collect();
    let others = [
        (
            for_names(&own, &["other.org", "10.0.0.1"]),
            Kind::WrongName,
            "is for other.org, 10.0.0.1, and not for example.org: connect",
        ),
        (for_names(&own, &[]), Kind::WrongName, "for no name at all"),
        (for_names(&own, &["*.example.org"]), Kind::WrongName, "is for *.example.org, and not for example.org"),
        (
            for_names(&ca("another CA"), &["example.org"]),
            Kind::UnknownIssuer,
            "not trusted here: if that is your own CA",
        ),
        // Made anew under the same name.
        (for_names(&ca("own CA"), &["example.org"]), Kind::BadCertificate, "as a CA that was made anew has"),
    ];
    cases.extend(others.map(|(made, kind, text)| (made, kind, true, text)));
    for (made, kind, is_fatal, text) in cases {
        let Failed { client, server } = fails(&trusting(&own), &made.server());
        let error = client.unwrap();
        assert_eq!((error.kind(), error.is_fatal()), (kind, is_fatal), "{error}");
        let shown = error.to_string();
        assert!(shown.starts_with("the certificate of example.org ") || shown.starts_with("a signature in"), "{shown}");
        assert!(shown.contains(text), "{shown}");
        // The server hears of it as well.
        let error = server.unwrap();
        assert!(error.to_string().contains("(alert "), "{error}");
        // Whoever accepts all accepts this one.
        connect(&ClientTls::new().danger_accept_invalid_certs().unwrap(), &made.server()).unwrap();
    }
}

#[test]
fn a_certificate_that_signs_itself_is_trusted_by_those_who_name_it_unless_it_is_a_ca() {
    let key = KeyPair::generate().unwrap();
    let mut params = params(&["example.org"]);
    params.is_ca = IsCa::ExplicitNoCa;
    let alone = params.self_signed(&key).unwrap().pem();
    let server = ServerTls::from_pem(&alone, key.serialize_pem()).unwrap();
    connect(&ClientTls::new().ca_pem(&alone).unwrap(), &server).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let as_ca = params.self_signed(&key).unwrap().pem();
    let server = ServerTls::from_pem(&as_ca, key.serialize_pem()).unwrap();
    let error = fails(&ClientTls::new().ca_pem(&as_ca).unwrap(), &server).client.unwrap();
    assert_eq!(error.kind(), TlsErrorKind::CaAsServer, "{error}");
    assert!(server.certificates()[0].is_ca());
}

#[test]
fn even_whoever_accepts_all_certificates_demands_their_key() {
    let ca = ca("a CA");
    let [one, other] = [(); 2].map(|()| for_names(&ca, &["example.org"]));
    let key = PrivateKeyDer::from_pem_slice(other.key.as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    let stolen = rustls::sign::SingleCertAndKey::from(CertifiedKey::new(vec![one.der()], key));
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_cert_resolver(Arc::new(stolen));
    let client = ClientTls::new().danger_accept_invalid_certs().unwrap();
    let error = fails(&client, &ServerTls::from_config(Arc::new(config))).client.unwrap();
    assert_eq!(error.kind(), TlsErrorKind::BadCertificate, "{error}");
}

#[test]
fn an_intermediate_ca_has_to_be_in_the_chain() {
    let root = ca("root");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let intermediate = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let made = for_names(&intermediate, &["example.org"]);
    assert_eq!(fails(&trusting(&root), &made.server()).client.unwrap().kind(), TlsErrorKind::UnknownIssuer);
    let whole = Made { chain: made.chain + &intermediate.pem(), key: made.key };
    connect(&trusting(&root), &whole.server()).unwrap();
}

#[test]
fn another_name_than_the_host_of_the_url_can_be_expected() {
    let ca = ca("a CA");
    let server = for_names(&ca, &["example.org"]).server();
    let client = trusting(&ca).server_name("example.org").unwrap();
    let pair = connect_to("10.1.2.3", &client, &server).unwrap();
    let Connection::Server(server) = &pair.server else { unreachable!() };
    assert_eq!(server.server_name(), Some("example.org"));
    assert_eq!(trusting(&ca).server_name("not a name").unwrap_err().kind(), TlsErrorKind::WrongName);
}

#[test]
fn the_certificate_is_that_of_the_name_and_the_first_for_all_other_names() {
    let ca = ca("a CA");
    let folder = Folder::new();
    let made =
        [&["example.org"][..], &["*.example.org"], &["OTHER.org", "10.1.1.1"]].map(|names| for_names(&ca, names));
    let pairs: Vec<_> = (0_usize..)
        .zip(&made)
        .map(|(at, made)| {
            (folder.file(&format!("{at}.pem"), &made.chain), folder.file(&format!("{at}.key"), &made.key))
        })
        .collect();
    let server = ServerTls::from_pem_files(&pairs[0].0, &pairs[0].1).unwrap();
    let server = pairs[1..].iter().fold(server, |server, (chain, key)| server.add_pem_files(chain, key).unwrap());
    assert_eq!(
        server.certificates().iter().map(|it| it.names().join(" ")).collect::<Vec<_>>(),
        ["example.org", "*.example.org", "OTHER.org 10.1.1.1"]
    );
    let client = ClientTls::new().danger_accept_invalid_certs().unwrap();
    for (host, at) in [
        ("example.org", 0),
        ("a.example.org", 1),
        ("A.Example.org", 1),
        ("a.b.example.org", 0),
        ("other.org", 2),
        ("unknown.org", 0),
        // No name is sent for an address.
        ("10.1.1.1", 0),
    ] {
        let pair = connect_to(host, &client, &server).unwrap();
        assert_eq!(*pair.certificate_of_server(), made[at].der(), "{host}");
    }
}

#[test]
fn of_two_certificates_for_a_name_a_client_gets_one_whose_kind_of_key_it_knows() {
    let ca = ca("a CA");
    let folder = Folder::new();
    let modern = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let modern =
        Made { chain: params(&["example.org"]).signed_by(&modern, &ca).unwrap().pem(), key: modern.serialize_pem() };
    let usual = for_names(&ca, &["example.org"]);
    let server = modern.server();
    let server = server.add_pem_files(folder.file("pem", &usual.chain), folder.file("key", &usual.key)).unwrap();
    let mut limited = rustls::crypto::ring::default_provider();
    let known = limited.signature_verification_algorithms;
    let without = known.mapping.iter().filter(|(scheme, _)| *scheme != SignatureScheme::ED25519).copied();
    let mapping = Box::leak(without.collect::<Vec<_>>().into_boxed_slice());
    limited.signature_verification_algorithms = WebPkiSupportedAlgorithms { all: known.all, mapping };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(limited)).with_safe_default_protocol_versions().unwrap();
    let limited = ClientTls::from_config(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    for host in ["example.org", "10.0.0.1"] {
        let chosen = |client: &ClientTls| {
            let mut pair = Pair::new(client, &server, host);
            let _ = pair.exchange();
            pair.client.peer_certificates().map(|chain| chain[0].clone().into_owned())
        };
        let all = ClientTls::new().danger_accept_invalid_certs().unwrap();
        assert_eq!(chosen(&all), Some(modern.der()), "{host}");
        if host == "example.org" {
            assert_eq!(chosen(&limited), Some(usual.der()));
        }
    }
}
