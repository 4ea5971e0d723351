//! `heartwire connect` and `check` through proxies: which one they take, and that no password is shown.

use std::process::Stdio;

use crate::support::process::{Process, heartwire, serve};
use crate::support::{FakeProxy, ms};

/// The proxy of the command line, or of the environment, is asked for a tunnel, and what it says is in the one line.
#[test]
fn the_proxy_of_the_command_line_or_else_of_the_environment_is_asked() {
    for (options, variables) in [
        (&["--proxy", "http://me:s3cret@PROXY"][..], &[("http_proxy", "http://127.0.0.1:1")][..]),
        (&[], &[("http_proxy", "http://me:s3cret@PROXY"), ("HTTP_PROXY", "http://127.0.0.1:1")]),
        (&[], &[("ALL_PROXY", "me:s3cret@PROXY")]),
        (&["--noproxy", "localhost"], &[("ALL_PROXY", "me:s3cret@PROXY"), ("NO_PROXY", "*")]),
        (&[], &[("HEARTWIRE_PROXY", "me:s3cret@PROXY")]),
    ] {
        let proxy = FakeProxy::bind();
        let here = |text: &str| text.replace("PROXY", &proxy.address().to_string());
        let mut command = heartwire(&["check", "ws://server.invalid/", "--timeout", "20s", "--log-level", "trace"]);
        command.args(options.iter().map(|option| here(option)));
        command.envs(variables.iter().map(|(name, value)| (name, here(value))));
        let mut process = Process::start(&mut command);
        let mut asked = proxy.accept();
        assert!(asked.head().contains("\r\nProxy-Authorization: Basic bWU6czNjcmV0\r\n"), "{options:?} {variables:?}");
        asked.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
        assert_eq!(process.wait().code(), Some(1));
        let lines = process.stderr.lines().join("\n");
        let told =
            format!("the proxy http://{} refused with HTTP status 502: it cannot reach the host", proxy.address());
        assert!(lines.contains(&told) && !lines.contains("s3cret"), "{lines}");
    }
}

#[test]
fn hosts_that_need_none_and_all_if_it_is_turned_off_are_connected_to_directly() {
    let (server, proxy) = (serve(&["127.0.0.1:0"]), FakeProxy::bind());
    let url = format!("ws://{}/", server.address());
    for (options, no_proxy) in [
        (&["--proxy", ""][..], ""),
        (&["--noproxy", "127.0.0.0/8"], ""),
        (&[], "localhost,127.0.0.1"),
        // Which goes for an option too.
        (&["--proxy", "http://127.0.0.1:1"], "*"),
    ] {
        let mut command = heartwire(&["check", &url, "--timeout", "20s"]);
        command.args(options).env("ALL_PROXY", proxy.address().to_string()).env("NO_PROXY", no_proxy);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{options:?}: {output:?}");
    }
    assert!(proxy.accept_within(ms(20)).is_none());
}

#[test]
fn mistakes_are_told_without_the_password() {
    for (arguments, told) in [
        (&["ws://h/", "--proxy", "https://me:s3cret@proxy.example"][..], "TLS to the proxy itself is not supported"),
        (&["ws://h/", "--proxy", "me:s3cret@proxy.example:x"], "the port is not valid"),
        (&["ws://h/", "--proxy", "", "--noproxy", "h"], "--noproxy has no effect with --proxy"),
        (&["unix:/socket", "--proxy", "me:s3cret@proxy.example"], "--proxy has no effect with a Unix socket"),
    ] {
        let output = heartwire(&[&["connect"], arguments].concat()).output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{arguments:?}: {line}");
        assert!(line.contains(told) && !line.contains("s3cret"), "{arguments:?}: {line}");
    }
    // Only who needs it is told of a proxy in the environment that cannot be used.
    let output = heartwire(&["connect", "ws://h/"]).env("http_proxy", "socks4://me:s3cret@p").output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("the value of http_proxy: ") && !line.contains("s3cret"), "{line}");
    assert_eq!(output.status.code(), Some(2), "{line}");
}
