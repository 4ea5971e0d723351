use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::*;
use crate::client::target::Target;
use crate::error::ProxyErrorKind;

fn server(url: &str) -> ProxyServer {
    ProxyServer::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn urls_of_proxies_are_taken_apart() {
    for (url, protocol, host, port, label) in [
        ("http://proxy.example:3128", Protocol::Http, "proxy.example", 3128, "http://proxy.example:3128"),
        ("http://proxy.example:3128/", Protocol::Http, "proxy.example", 3128, "http://proxy.example:3128"),
        ("proxy.example:8080", Protocol::Http, "proxy.example", 8080, "http://proxy.example:8080"),
        ("proxy.example", Protocol::Http, "proxy.example", 1080, "http://proxy.example:1080"),
        ("SOCKS5://127.0.0.1:9050", Protocol::Socks5, "127.0.0.1", 9050, "socks5://127.0.0.1:9050"),
        ("socks5h://u:p@[::1]", Protocol::Socks5h, "::1", 1080, "socks5h://[::1]:1080"),
    ] {
        let it = server(url);
        assert_eq!((it.protocol, &*it.host, it.port, &*it.label), (protocol, host, port, label), "{url}");
    }
}

#[test]
fn credentials_are_percent_decoded() {
    for (url, user, password) in [
        ("http://me:p%40s%3as@h", "me", "p@s:s"),
        ("http://me@h", "me", ""),
        ("socks5://a%3Ab:c:d@h", "a:b", "c:d"),
        ("me:a@b@h", "me", "a@b"),
        ("socks5h://:%25@h", "", "%"),
    ] {
        let Some(Credentials { user: it, password: secret }) = server(url).credentials else { panic!("{url}") };
        assert_eq!((&*it, &*secret), (user.as_bytes(), password.as_bytes()), "{url}");
    }
    assert!(server("http://h").credentials.is_none());
    assert_eq!(percent_decoded("%e2%82%AC"), Some("€".as_bytes().to_vec()));
    assert!(["%", "%4", "%zz", "a%+1", "%€"].into_iter().all(|text| percent_decoded(text).is_none()));
}

#[test]
fn other_urls_are_refused_without_being_told_their_secrets() {
    for url in [
        "".to_owned(),
        "http://".to_owned(),
        "http://:3128".to_owned(),
        "http://[]:3128".to_owned(),
        "https://user:s3cret@proxy.example".to_owned(),
        "socks4://user:s3cret@proxy.example".to_owned(),
        "http://user:s3cret@proxy.example:99999".to_owned(),
        "http://user:s3cret@proxy.example:http".to_owned(),
        "http://user:s3cret@proxy.example/path".to_owned(),
        "http://user:s3/cret@proxy.example".to_owned(),
        "http://user:s3?cret@proxy.example".to_owned(),
        "http://user:s3%cret@proxy.example".to_owned(),
        "http://us%3Aer:s3cret@proxy.example".to_owned(),
        "http://user:s3cret@proxy example".to_owned(),
        "http://user:s3cret@proxy\r\nX: y".to_owned(),
        format!("socks5://user:s3cret{}@proxy.example", "x".repeat(250)),
    ] {
        match Proxy::parse(&url) {
            Err(Error::Connect(error @ ConnectError::Invalid(_))) => {
                let shown = format!("{error} {error:?}");
                assert!(error.is_fatal() && !shown.contains("s3") && !shown.contains("user:"), "{url}: {shown}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[test]
fn debug_output_shows_no_credentials() {
    let proxy = Proxy::parse("http://user:s3cret@proxy.example:3128").unwrap().no_proxy("localhost");
    let mut target = Target::parse("ws://example.org/").unwrap();
    target.proxy = Some(proxy.clone());
    for shown in [format!("{proxy:?}"), format!("{target:?}")] {
        assert!(shown.contains("http://proxy.example:3128") && shown.contains("localhost"), "{shown}");
        assert!(!shown.contains("user") && !shown.contains("s3cret"), "{shown}");
    }
}

/// The proxy that these variables name for a URL. An error begins with "invalid: ".
fn by(variables: &[(&str, &str)], url: &str) -> String {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    let proxy = Proxy::from_variables(|name| variables.get(name).map(|value| (*value).to_owned()));
    match proxy.server_for(&Target::parse(url).unwrap().location) {
        Ok(None) => "direct".to_owned(),
        Ok(Some(server)) => server.label.clone(),
        Err(error) => format!("invalid: {error}"),
    }
}

const WS: &str = "ws://example.org/";
#[cfg(feature = "tls")]
const WSS: &str = "wss://example.org/";

#[test]
fn the_environment_is_read_by_the_rules_of_curl() {
    assert_eq!(by(&[], WS), "direct");
    assert_eq!(by(&[("http_proxy", "a:1")], WS), "http://a:1");
    // A header "Proxy" of a CGI request would come as this variable.
    assert_eq!(by(&[("HTTP_PROXY", "a:1")], WS), "direct");
    assert_eq!(by(&[("https_proxy", "a:1"), ("HTTPS_PROXY", "b:1")], WS), "direct");
    assert_eq!(by(&[("http_proxy", "a:1"), ("WS_PROXY", "b:1")], WS), "http://b:1");
    assert_eq!(by(&[("ws_proxy", "a:1"), ("WS_PROXY", "b:1")], WS), "http://a:1");
    assert_eq!(by(&[("ALL_PROXY", "socks5h://c:1")], WS), "socks5h://c:1");
    assert_eq!(by(&[("all_proxy", "a:1"), ("ALL_PROXY", "b:1"), ("http_proxy", "")], WS), "http://a:1");
}

#[test]
#[cfg(feature = "tls")]
fn urls_with_tls_have_variables_of_their_own() {
    assert_eq!(by(&[("http_proxy", "a:1")], WSS), "direct");
    assert_eq!(by(&[("HTTPS_PROXY", "a:1")], WSS), "http://a:1");
    assert_eq!(by(&[("https_proxy", "a:1"), ("HTTPS_PROXY", "b:1")], WSS), "http://a:1");
    assert_eq!(by(&[("https_proxy", "a:1"), ("WSS_PROXY", "b:1")], WSS), "http://b:1");
    assert_eq!(by(&[("ws_proxy", "a:1"), ("all_proxy", "b:1")], WSS), "http://b:1");
}

#[test]
fn exceptions_in_the_environment_are_connected_to_directly() {
    let variables = [("http_proxy", "a:1"), ("NO_PROXY", "localhost,10.0.0.0/8")];
    assert_eq!(by(&variables, WS), "http://a:1");
    assert_eq!(by(&variables, "ws://localhost:9001/"), "direct");
    assert_eq!(by(&variables, "ws://10.1.2.3/"), "direct");
    // The name in lower case comes first.
    assert_eq!(by(&[&variables[..], &[("no_proxy", "example.org")]].concat(), "ws://localhost:9001/"), "http://a:1");
    assert_eq!(by(&[&variables[..], &[("no_proxy", "")]].concat(), "ws://localhost:9001/"), "direct");
    #[cfg(unix)]
    assert_eq!(by(&[("all_proxy", "a:1")], "unix:/run/heartwire.sock"), "direct");
    let proxy = Proxy::parse("a:1").unwrap().no_proxy("[::1]");
    let is_direct = |url| proxy.server_for(&Target::parse(url).unwrap().location).unwrap().is_none();
    assert!(is_direct("ws://[::1]:9001/") && !is_direct("ws://[::2]:9001/"));
}

#[test]
fn a_proxy_in_the_environment_that_is_not_valid_concerns_those_who_need_it() {
    let variables = [("http_proxy", "https://user:s3cret@a:1"), ("no_proxy", "localhost")];
    let error = by(&variables, WS);
    assert!(error.starts_with("invalid: the value of http_proxy: ") && !error.contains("s3cret"), "{error}");
    assert_eq!(by(&variables, "ws://localhost/"), "direct");
    let mut target = Target::parse(WS).unwrap();
    target.proxy = Some(Proxy::from_variables(|name| (name == "http_proxy").then(|| "socks4://a".to_owned())));
    assert!(matches!(target.check(), Err(ConnectError::Invalid(_))));
}

/// What becomes of an attempt whose SOCKS5 proxy answers the requests to connect so, one after another. The host has
/// two addresses.
fn answered(replies: &'static [u8]) -> ConnectError {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut target = Target::parse("ws://host.invalid/").unwrap();
    target.proxy = Some(Proxy::parse("socks5://proxy.invalid").unwrap());
    target.resolve = Arc::new(move |host, port| match host {
        "proxy.invalid" => Ok(vec![address]),
        _ => Ok(vec![([192, 0, 2, 1], port).into(), ([192, 0, 2, 2], port).into()]),
    });
    let (served, all_served) = crossbeam_channel::unbounded();
    thread::spawn(move || {
        for (last, reply) in (1..).zip(replies) {
            let mut stream = listener.accept().unwrap().0;
            stream.read_exact(&mut [0; 3]).unwrap();
            stream.write_all(&[5, 0]).unwrap();
            let mut request = [0; 10];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(request, [5, 1, 0, 1, 192, 0, 2, last, 0, 80]);
            served.send(last).unwrap();
            stream.write_all(&[5, *reply, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            if *reply == 0 {
                stream.write_all(b"HTTP/1.1 410 Gone\r\n\r\n").unwrap();
                // Until the client has left, lest it find a reset.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
    });
    let error = target.dial(target.connect_timeout).unwrap_err();
    assert_eq!(all_served.try_iter().count(), replies.len(), "{error}");
    error
}

#[test]
fn a_socks5_proxy_tries_each_address_of_the_host_until_one_is_reached() {
    assert!(matches!(answered(&[0]), ConnectError::Refused { status: 410, .. }));
    assert!(matches!(answered(&[5, 0]), ConnectError::Refused { status: 410, .. }));
    let is_reply = |error: ConnectError, code: u8| match error {
        ConnectError::Proxy(error) => matches!(error.kind(), ProxyErrorKind::Reply(it) if *it == code),
        _ => false,
    };
    // The last one is told; and what goes for all addresses is told at once.
    assert!(is_reply(answered(&[5, 8]), 8) && is_reply(answered(&[4, 3]), 3));
    assert!(is_reply(answered(&[2]), 2));
}

#[test]
#[cfg(target_os = "linux")]
fn addresses_of_the_proxy_are_raced_and_those_of_the_host_not_asked_for() {
    let (silent, _held) = crate::client::race::tests::silent();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = vec![silent, listener.local_addr().unwrap()];
    let mut target = Target::parse(WS).unwrap();
    target.proxy = Some(Proxy::parse("socks5h://proxy.invalid:3128").unwrap());
    target.resolve = Arc::new(move |host, port| {
        assert_eq!((host, port), ("proxy.invalid", 3128));
        Ok(addresses.clone())
    });
    let proxy = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.read_exact(&mut [0; 3]).unwrap();
        stream.write_all(&[5, 0xff]).unwrap();
    });
    let begin = std::time::Instant::now();
    let error = target.dial(target.connect_timeout).unwrap_err();
    assert!(matches!(&error, ConnectError::Proxy(error) if error.is_fatal()), "{error:?}");
    // A quarter of a second for the silent address, and not a share of the ten.
    assert!(begin.elapsed() < target.connect_timeout / 2, "{:?}", begin.elapsed());
    proxy.join().unwrap();
}
