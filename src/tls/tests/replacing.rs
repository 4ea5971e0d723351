//! What is replaced while it is in use.

use super::*;

/// Two may reload at once: a watcher of files, and a signal.
#[cfg(unix)]
#[test]
fn a_reload_that_has_read_older_files_does_not_replace_what_a_later_one_has_read() {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    let ca = ca("a CA");
    let folder = Folder::new();
    // A certificate that is renewed for the same key.
    let key = KeyPair::generate().unwrap();
    let [first, second] = [(); 2].map(|()| params(&["example.org"]).signed_by(&key, &ca).unwrap().pem());
    folder.file("first", &first);
    folder.file("second", &second);
    folder.file("key", key.serialize_pem());
    let path = folder.0.join("pem");
    let point_to = |name: &str| {
        let _ = fs::remove_file(&path);
        symlink(folder.0.join(name), &path).unwrap();
    };
    point_to("first");
    let server = ServerTls::from_pem_files(&path, folder.0.join("key")).unwrap();
    // One that reads for as long as the test wants.
    let pipe = folder.0.join("pipe");
    assert!(process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    point_to("pipe");
    thread::scope(|scope| {
        let slow = scope.spawn(|| server.reload());
        // Returns once the other end is open.
        let mut writer = fs::File::options().write(true).open(&pipe).unwrap();
        point_to("second");
        server.reload().unwrap();
        writer.write_all(first.as_bytes()).unwrap();
        drop(writer);
        slow.join().unwrap().unwrap();
    });
    let second = CertificateDer::from_pem_slice(second.as_bytes()).unwrap();
    assert_eq!(server.certificates()[0].der(), &*second);
}

#[test]
fn reload_serves_what_is_new_and_keeps_the_old_while_it_cannot_be_used() {
    let ca = ca("a CA");
    let folder = Folder::new();
    let [first, second] = [(); 2].map(|()| for_names(&ca, &["example.org"]));
    let (chain, key) = (folder.file("pem", &first.chain), folder.file("key", &first.key));
    let server = ServerTls::from_pem_files(&chain, &key).unwrap();
    // What the server holds.
    let served = server.clone();
    let presented = || connect(&trusting(&ca), &served).unwrap().certificate_of_server().clone().into_owned();
    // As seen between the replacement of the certificate and that of its key.
    folder.file("pem", &second.chain);
    let error = server.reload().unwrap_err();
    assert!(
        error.to_string().contains(key.to_str().unwrap()) && error.to_string().contains("does not belong"),
        "{error}"
    );
    assert_eq!(presented(), first.der());
    for broken in
        ["", "-----BEGIN CERTIFICATE-----\nAAAA\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        folder.file("pem", broken);
        let error = server.reload().unwrap_err();
        assert!(error.to_string().contains(chain.to_str().unwrap()), "{error}");
        assert_eq!((error.kind(), presented()), (TlsErrorKind::Files, first.der()));
    }
    folder.file("pem", &second.chain);
    folder.file("key", &second.key);
    server.reload().unwrap();
    assert_eq!((presented(), served.certificates()[0].der()), (second.der(), &*second.der()));
    fs::remove_file(&key).unwrap();
    assert!(server.reload().is_err());
    assert_eq!(presented(), second.der());
}

#[test]
fn reload_disturbs_no_handshake() {
    let ca = ca("a CA");
    let folder = Folder::new();
    let both = [(); 2].map(|()| for_names(&ca, &["example.org"]));
    let (chain, key) = (folder.file("pem", &both[0].chain), folder.file("key", &both[0].key));
    let server = ServerTls::from_pem_files(&chain, &key).unwrap();
    let (is_over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = trusting(&ca);
    thread::scope(|scope| {
        let connecting = [(); 2].map(|()| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    connect(&client, &server).unwrap();
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let go_on = || connecting.iter().all(|it| !it.is_finished());
        for round in 0..200 {
            let made_before = made.load(Ordering::Relaxed);
            let next = &both[round % 2];
            folder.file("pem", &next.chain);
            folder.file("key", &next.key);
            server.reload().unwrap();
            assert_eq!(server.certificates()[0].der(), &*next.der());
            while round % 20 == 0 && made.load(Ordering::Relaxed) == made_before && go_on() {
                thread::yield_now();
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn an_own_configuration_is_used_as_it_is_and_can_be_replaced() {
    let ca = ca("a CA");
    let [first, second] = [(); 2].map(|()| for_names(&ca, &["example.org"]));
    let own = |made: &Made| {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
        Arc::new(config.with_no_client_auth().with_single_cert(vec![made.der()], key).unwrap())
    };
    let config = own(&first);
    let server = ServerTls::from_config(Arc::clone(&config));
    assert!(Arc::ptr_eq(&config, &server.config()) && server.certificates().is_empty());
    server.reload().unwrap();
    server.replace_config(own(&second));
    assert_eq!(*connect(&trusting(&ca), &server).unwrap().certificate_of_server(), second.der());
    assert_eq!(server.require_client_certificates("ca.pem").unwrap_err().kind(), TlsErrorKind::Files);
    let client = client_of(&[&TLS13], &[], &ca);
    let config = client.config().unwrap();
    client.reload().unwrap();
    let renamed = client.clone().server_name("example.org").unwrap();
    assert!([&client, &renamed].iter().all(|it| Arc::ptr_eq(&config, &it.config().unwrap())));
    assert_eq!(client.danger_accept_invalid_certs().unwrap_err().kind(), TlsErrorKind::Files);
}

#[test]
fn a_client_reads_its_roots_once() {
    let ca = ca("a CA");
    let folder = Folder::new();
    let file = folder.file("ca", ca.pem());
    let client = ClientTls::new().ca_file(&file).unwrap();
    let config = client.config().unwrap();
    fs::remove_file(&file).unwrap();
    assert!(Arc::ptr_eq(&config, &client.clone().config().unwrap()));
    // What cannot be read anew stays in use.
    assert!(client.reload().unwrap_err().to_string().contains(file.to_str().unwrap()));
    connect(&client, &for_names(&ca, &["example.org"]).server()).unwrap();
    // The system's, where there are any.
    match ClientTls::new().config() {
        Ok(_) => {}
        Err(error) => assert_eq!((error.kind(), error.is_fatal()), (TlsErrorKind::NoRoots, true), "{error}"),
    }
}

#[test]
fn an_own_ca_is_trusted_in_place_of_the_systems_unless_both_are_asked_for() {
    let (one, other) = (ca("one"), ca("other"));
    let client = trusting(&one).ca_pem(other.pem()).unwrap();
    for ca in [&one, &other] {
        connect(&client, &for_names(ca, &["example.org"]).server()).unwrap();
    }
    // The order of the calls does not matter.
    let both = [
        ClientTls::new().system_roots().and_then(|client| client.ca_pem(one.pem())),
        ClientTls::new().ca_pem(one.pem()).and_then(ClientTls::system_roots),
    ];
    let shown = both.map(|client| format!("{:?}", client.unwrap()));
    assert_eq!(shown[0], shown[1]);
    assert!(shown[0].contains("adds_system: true") && format!("{client:?}").contains("adds_system: false"));
}
