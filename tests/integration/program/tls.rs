//! TLS on the command line: where certificates come from, what is said of them, and their replacement while the server
//! runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::Folder;
use crate::support::process::{Process, heartwire, serve};
use crate::support::tls::{Made, ca};

fn served(chain: &str, key: &str) -> Process {
    let quietly = ["--max-connections", "10", "--log-level", "debug"];
    serve(&[&["127.0.0.1:0", "--tls-cert", chain, "--tls-key", key], &quietly[..]].concat())
}

/// The lines of the log that contain a text.
fn count(process: &Process, text: &str) -> usize {
    process.stderr.lines().iter().filter(|line| line.contains(text)).count()
}

#[test]
fn the_first_line_says_wss_and_the_names_of_all_certificates() {
    let (ca, folder) = (ca("a CA"), Folder::new());
    let [one, two] = ["one.example", "two.example"].map(|name| {
        let made = Made::lasting(&ca, name, 90);
        (folder.write(&format!("{name}.pem"), &made.chain), folder.write(&format!("{name}.key"), &made.key))
    });
    let pairs = ["--tls-cert", &one.0, "--tls-key", &one.1, "--tls-cert", &two.0, "--tls-key", &two.1];
    let mut server = serve(&[&["127.0.0.1:0", "--max-connections", "10"], &pairs[..]].concat());
    let line = server.stdout.line_with(&["listening on"]);
    assert!(line.starts_with("listening on wss://127.0.0.1:"), "{line}");
    assert!(line.contains(" for localhost, one.example, localhost, two.example (Ping every 20s"), "{line}");
    assert!(line.contains("; status page at https://127.0.0.1:"), "{line}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    // Nothing is wrong with them.
    assert_eq!(count(&server, "WARN"), 0, "{:?}", server.stderr.lines());
}

#[test]
fn a_certificate_that_ends_soon_or_has_ended_is_a_warning() {
    let (ca, folder) = (ca("a CA"), Folder::new());
    for (days, told) in [(13, ", in 13 days: renew it"), (-1, ": renew it, for clients refuse it")] {
        let made = Made::lasting(&ca, "one.example", days);
        let server = served(&folder.write("pem", &made.chain), &folder.write("key", &made.key));
        let line = server.stderr.line_with(&["WARN", "the certificate for localhost, one.example expire"]);
        assert!(line.ends_with(told), "{line}");
    }
}

#[test]
#[cfg(feature = "self-signed")]
fn a_self_signed_certificate_is_told_by_its_fingerprint_and_another_each_time() {
    let fingerprints = [(); 2].map(|()| {
        let server = serve(&["127.0.0.1:0", "--tls-self-signed"]);
        assert!(server.stdout.line_with(&["listening on wss://"]).contains(" for localhost, 127.0.0.1, ::1 ("));
        let line = server.stdout.line_with(&["self-signed certificate, SHA-256 fingerprint "]);
        line.rsplit(' ').next().unwrap().to_owned()
    });
    assert!(fingerprints.iter().all(|it| it.split(':').count() == 32 && it.len() == 95), "{fingerprints:?}");
    assert_ne!(fingerprints[0], fingerprints[1]);
}

/// How a program that cannot start ends: its exit status, and its only line.
fn refused(mut command: Command) -> (Option<i32>, String) {
    let mut process = Process::start(&mut command);
    let status = process.wait();
    let [line] = &process.stderr.lines()[..] else { panic!("one line: {:?}", process.stderr.lines()) };
    (status.code(), line.clone())
}

#[test]
fn files_that_cannot_be_used_are_named_by_server_and_clients() {
    let (ca, folder) = (ca("a CA"), Folder::new());
    let [made, other] = [(); 2].map(|()| Made::lasting(&ca, "one.example", 90));
    let (chain, key) = (folder.write("pem", &made.chain), folder.write("key", &made.key));
    let other = folder.write("other", &other.key);
    let missing = folder.path("missing");
    for (chain, key, named, why) in [
        (&missing, &key, &missing, "cannot read"),
        (&chain, &missing, &missing, "cannot read"),
        (&key, &key, &key, "has no certificate in it"),
        (&chain, &other, &other, "does not belong to the first certificate"),
    ] {
        let of_server = refused(heartwire(&["127.0.0.1:0", "--tls-cert", chain, "--tls-key", key]));
        let url = "wss://localhost:1/";
        let of_clients =
            ["connect", "check"].map(|command| refused(heartwire(&[command, url, "--cert", chain, "--key", key])));
        for (status, line) in [of_server].into_iter().chain(of_clients) {
            assert_eq!(status, Some(1), "{line}");
            assert!(line.starts_with("error: ") && line.contains(named) && line.contains(why), "{line}");
        }
    }
    let (status, line) = refused(heartwire(&["connect", "wss://localhost:1/", "--cacert", &missing]));
    assert!(status == Some(1) && line.contains(&missing), "{line}");
    let with_clients = ["0", "--tls-cert", &chain, "--tls-key", &key, "--tls-client-ca", &missing];
    let (status, line) = refused(heartwire(&with_clients));
    assert!(status == Some(1) && line.contains(&missing), "{line}");
}

#[test]
fn options_without_an_effect_are_mistakes() {
    for (arguments, told) in [
        (&["0", "--tls-cert", "a"][..], "there are 1 and 0"),
        (&["0", "--tls-key", "a"], "there are 0 and 1"),
        (&["0", "--tls-client-ca", "a"], "--tls-client-ca has no effect without --tls-cert"),
        (
            &["0", "--tls-cert", "a", "--tls-key", "b", "--tls-client-cert", "requested"],
            "--tls-client-cert has no effect without --tls-client-ca",
        ),
        (&["connect", "ws://localhost/", "--insecure"], "--insecure has no effect with a URL that begins with ws://"),
        (&["check", "ws://localhost/", "--cacert", "a"], "--cacert has no effect with a URL that begins with ws://"),
        (&["check", "wss://localhost/", "--cacert", "a", "--insecure"], "--cacert has no effect with --insecure"),
        (&["connect", "wss://localhost/", "--cert", "a"], "--cert and --key need each other"),
        (&["connect", "wss://localhost/", "--key", "a"], "--cert and --key need each other"),
    ] {
        let (status, line) = refused(heartwire(arguments));
        assert!(status == Some(2) && line.contains(told), "{arguments:?}: {line}");
    }
}

// Replacement.

const RELOADED: &str = "certificates reloaded: localhost, two.example until ";
const KEPT: &str = "the old certificates are still served, for the new ones cannot be used: ";

#[test]
fn files_that_change_are_read_anew_and_a_mistake_is_logged_once() {
    let (ca, folder) = (ca("a CA"), Folder::new());
    let [one, two] = [Made::lasting(&ca, "one.example", 90), Made::lasting(&ca, "two.example", 90)];
    let (chain, key) = (folder.write("pem", &one.chain), folder.write("key", &one.key));
    let server = served(&chain, &key);
    server.address();
    // The key is forgotten at first.
    folder.write("pem", &two.chain);
    let line = server.stderr.line_with(&["WARN", KEPT]);
    assert!(line.contains(&chain) && line.contains("does not belong to the first certificate"), "{line}");
    // It is tried again and again: what is wrong next is seen in passing, and the log has one line all the same.
    fs::remove_file(&key).unwrap();
    server.stderr.line_with(&["DEBUG", "still cannot be used: cannot read ", &key]);
    folder.write("key", &two.key);
    server.stderr.line_with(&["INFO", RELOADED]);
    assert_eq!((count(&server, KEPT), count(&server, RELOADED)), (1, 1), "{:?}", server.stderr.lines());
}

#[test]
#[cfg(unix)]
fn a_symbolic_link_that_points_elsewhere_is_seen() {
    use std::os::unix::fs::symlink;

    let (ca, folder) = (ca("a CA"), Folder::new());
    // As Kubernetes does it: the names stay, and the folder behind them is another.
    for (version, name) in [("v1", "one.example"), ("v2", "two.example")] {
        fs::create_dir(folder.path(version)).unwrap();
        let made = Made::lasting(&ca, name, 90);
        folder.write(&format!("{version}/pem"), &made.chain);
        folder.write(&format!("{version}/key"), &made.key);
    }
    symlink("v1", folder.path("data")).unwrap();
    for name in ["pem", "key"] {
        symlink(Path::new("data").join(name), folder.path(name)).unwrap();
    }
    let server = served(&folder.path("pem"), &folder.path("key"));
    server.address();
    symlink("v2", folder.path("next")).unwrap();
    fs::rename(folder.path("next"), folder.path("data")).unwrap();
    server.stderr.line_with(&["INFO", RELOADED]);
    assert_eq!(count(&server, KEPT), 0);
}

#[test]
#[cfg(unix)]
fn sighup_reads_certificates_anew_and_does_not_end_the_server() {
    let (ca, folder) = (ca("a CA"), Folder::new());
    let made = Made::lasting(&ca, "two.example", 90);
    let (chain, key) = (folder.write("pem", &made.chain), folder.write("key", &made.key));
    let mut server = served(&chain, &key);
    server.address();
    server.signal("HUP");
    server.stderr.line_with(&["INFO", RELOADED]);
    fs::remove_file(&key).unwrap();
    server.signal("HUP");
    assert!(server.stderr.line_with(&["WARN", KEPT]).contains(&key));
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
#[cfg(unix)]
fn sighup_ends_a_server_without_certificates_unless_it_is_a_service() {
    let mut server = serve(&["127.0.0.1:0"]);
    server.address();
    server.signal("HUP");
    assert_eq!(server.wait().code(), Some(0));
    if cfg!(target_os = "linux") {
        // Nobody listens there, which does no harm.
        let folder = Folder::new();
        let mut service = Process::start(heartwire(&["127.0.0.1:0"]).env("NOTIFY_SOCKET", folder.path("notify")));
        service.address();
        service.signal("HUP");
        service.stderr.line_with(&["INFO", "SIGHUP: there are no certificates to reload"]);
        service.signal("TERM");
        assert_eq!(service.wait().code(), Some(0));
    }
}
