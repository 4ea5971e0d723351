//! `heartwire serve`, `connect` and `check` over TLS, each as the other end of another.

use std::process::Output;

use crate::support::Folder;
use crate::support::process::{Process, heartwire, serve, start_client, type_line};
use crate::support::tls::{Made, ca};

fn served(folder: &Folder, made: &Made, options: &[&str]) -> Process {
    let (chain, key) = (folder.write("pem", &made.chain), folder.write("key", &made.key));
    serve(&[&["127.0.0.1:0", "--tls-cert", &chain, "--tls-key", &key], options].concat())
}

fn url(server: &Process, host: &str) -> String {
    format!("wss://{host}:{}/", server.address().port())
}

/// How `heartwire check` ends with these options: whether all was well, and its line.
fn check(server: &Process, host: &str, options: &[&str]) -> (bool, String) {
    ended(heartwire(&[&["check", &url(server, host), "--timeout", "20s"], options].concat()).output().unwrap())
}

fn ended(output: Output) -> (bool, String) {
    let line = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(line).unwrap())
}

fn assert_checked(server: &Process, options: &[&str]) {
    let (is_well, line) = check(server, "localhost", options);
    assert!(is_well && line.starts_with("ok: wss://localhost:"), "{line}");
}

fn assert_refused(server: &Process, host: &str, options: &[&str], why: &str) {
    let (is_well, line) = check(server, host, options);
    assert!(!is_well && line.contains(why), "{line}");
}

#[test]
fn a_client_is_connected_to_the_server_that_its_ca_vouches_for_and_to_no_other() {
    let (ca, other, folder) = (ca("a CA"), ca("another CA"), Folder::new());
    let server = served(&folder, &Made::lasting(&ca, "one.example", 90), &[]);
    let (ca, other) = (folder.write("ca", ca.pem()), folder.write("other", other.pem()));
    assert_checked(&server, &["--cacert", &ca]);
    assert_refused(&server, "localhost", &["--cacert", &other], "comes from an issuer that is not trusted here");
    let why = "is for localhost, one.example, and not for 127.0.0.1";
    assert_refused(&server, "127.0.0.1", &["--cacert", &ca], why);
    let options = ["--insecure", "--log-level", "warn"];
    let (is_well, line) = check(&server, "127.0.0.1", &options);
    assert!(is_well, "{line}");

    let (client, mut stdin) = start_client(&url(&server, "localhost"), &["--cacert", &ca]);
    type_line(&mut stdin, "hello");
    assert_eq!(client.stdout.line_with(&["hello"]), "hello");
}

#[test]
#[cfg(target_os = "linux")]
fn without_an_own_ca_the_roots_of_the_system_count() {
    let (ca, folder) = (ca("a CA"), Folder::new());
    let server = served(&folder, &Made::lasting(&ca, "one.example", 90), &[]);
    let roots = folder.write("roots", ca.pem());
    let check = |roots: &str| {
        let mut command = heartwire(&["check", &url(&server, "localhost"), "--timeout", "20s"]);
        ended(command.env("SSL_CERT_FILE", roots).env("SSL_CERT_DIR", folder.path("none")).output().unwrap())
    };
    let (is_well, line) = check(&roots);
    assert!(is_well, "{line}");
    let (is_well, line) = check(&folder.write("empty", ""));
    assert!(!is_well && line.contains("this system has no trusted roots: install them"), "{line}");
}

#[test]
fn a_certificate_of_each_client_can_be_required() {
    let (ca, devices, folder) = (ca("a CA"), ca("devices"), Folder::new());
    let device = Made::lasting(&devices, "device-17", 90);
    let (ca_file, clients) = (folder.write("ca", ca.pem()), folder.write("devices", devices.pem()));
    let (cert, key) = (folder.write("device", &device.chain), folder.write("device-key", &device.key));
    let trusting = ["--cacert", &ca_file];
    let identified = [&trusting[..], &["--cert", &cert, "--key", &key]].concat();
    for (presence, lets_anyone_in) in [("required", false), ("requested", true)] {
        let options = ["--tls-client-ca", &clients, "--tls-client-cert", presence];
        let server = served(&folder, &Made::lasting(&ca, "one.example", 90), &options);
        assert_checked(&server, &identified);
        match lets_anyone_in {
            true => assert_checked(&server, &trusting),
            false => assert_refused(&server, "localhost", &trusting, "asks for a client certificate, and none is set"),
        }
    }
}

#[test]
fn a_new_certificate_is_served_as_soon_as_it_is_there() {
    let (old, new, folder) = (ca("the old CA"), ca("the new CA"), Folder::new());
    let server = served(&folder, &Made::lasting(&old, "one.example", 90), &[]);
    let [old_ca, new_ca] = [(&old, "old"), (&new, "new")].map(|(ca, name)| folder.write(name, ca.pem()));
    // This one stays, whatever becomes of certificates.
    let (client, mut stdin) = start_client(&url(&server, "localhost"), &["--cacert", &old_ca]);
    type_line(&mut stdin, "before");
    client.stdout.line_with(&["before"]);
    let made = Made::lasting(&new, "two.example", 90);
    folder.write("pem", &made.chain);
    folder.write("key", &made.key);
    server.stderr.line_with(&["certificates reloaded: localhost, two.example"]);
    assert_checked(&server, &["--cacert", &new_ca]);
    assert_refused(&server, "localhost", &["--cacert", &old_ca], "not trusted here");
    type_line(&mut stdin, "after");
    client.stdout.line_with(&["after"]);
    assert!(!client.stderr.lines().iter().any(|line| line.contains("closed")), "{:?}", client.stderr.lines());
}

#[test]
#[cfg(feature = "self-signed")]
fn a_try_needs_no_files() {
    let server = serve(&["127.0.0.1:0", "--tls-self-signed"]);
    assert_checked(&server, &["--insecure"]);
    assert_refused(&server, "localhost", &[], "the certificate of ");
}
