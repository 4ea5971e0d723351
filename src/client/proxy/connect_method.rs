//! How an HTTP proxy is asked for a tunnel: `CONNECT` (RFC 9110 section 9.3.6; RFC 6455 section 4.1 asks for it with
//! `ws://` too). Pure.

use data_encoding::BASE64;

use super::{Credentials, authority};
use crate::error::ProxyErrorKind;
use crate::http::response::ResponseHead;

/// The head of the request.
pub(super) fn encode(host: &str, port: u16, credentials: Option<&Credentials>) -> String {
    let authority = authority(host, port);
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(Credentials { user, password }) = credentials {
        let basic = BASE64.encode(&[user, &b":"[..], password].concat());
        head += &format!("Proxy-Authorization: Basic {basic}\r\n");
    }
    head + "\r\n"
}

/// Whether the tunnel is open. Then what follows the head comes from the host: a successful response has no body.
pub(super) fn check(response: &ResponseHead, has_credentials: bool) -> Result<(), ProxyErrorKind> {
    match response.status {
        200..=299 => Ok(()),
        // By 401 tinyproxy means wrong credentials, and by 407 missing ones. A host's own 401 comes through the tunnel.
        401 | 407 => Err(ProxyErrorKind::Credentials(match has_credentials {
            _ if !takes_basic(response) => "asks for credentials of another kind than Basic, which is all that we have",
            true => "does not accept the user name and password of its URL",
            false => "asks for a user name and a password: set them in its URL, as http://USER:PASSWORD@HOST:PORT",
        })),
        status => Err(ProxyErrorKind::Status(status)),
    }
}

/// Whether `Basic` is among the challenges, or none is named.
fn takes_basic(response: &ResponseHead) -> bool {
    let mut challenges = response.head.list("Proxy-Authenticate").peekable();
    let is_basic = |challenge: &[u8]| {
        let scheme = challenge.split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"Basic")
    };
    challenges.peek().is_none() || challenges.any(is_basic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Parsed;

    #[test]
    fn requests_name_host_and_port_twice_and_have_the_credentials() {
        let plain = encode("example.org", 80, None);
        assert_eq!(plain, "CONNECT example.org:80 HTTP/1.1\r\nHost: example.org:80\r\n\r\n");
        // The example of RFC 7617 section 2.
        let credentials = Credentials { user: b"Aladdin".to_vec(), password: b"open sesame".to_vec() };
        let known = encode("::1", 443, Some(&credentials));
        assert_eq!(
            known,
            "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\
             Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
        );
    }

    fn answered(head: &str, has_credentials: bool) -> Result<(), String> {
        let Ok(Parsed::Complete(response, _)) = ResponseHead::parse(head.as_bytes()) else { panic!("{head}") };
        check(&response, has_credentials).map_err(|kind| format!("{kind:?}"))
    }

    #[test]
    fn any_success_opens_the_tunnel_and_nothing_else_does() {
        for status in [200, 201, 204, 299] {
            assert_eq!(answered(&format!("HTTP/1.0 {status} Yes\r\nContent-Length: 5\r\n\r\n"), false), Ok(()));
        }
        for status in [101, 300, 302, 400, 403, 502] {
            let refused = answered(&format!("HTTP/1.1 {status} No\r\n\r\n"), false);
            assert_eq!(refused, Err(format!("Status({status})")));
        }
    }

    #[test]
    fn a_demand_for_credentials_says_what_to_do() {
        let basic = "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: basic realm=\"a, b\"\r\n\r\n";
        let other = "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate, NTLM\r\n\r\n";
        let silent = "HTTP/1.1 407 No\r\n\r\n";
        for (head, has_credentials, told) in [
            (basic, false, "set them in its URL"),
            (basic, true, "does not accept"),
            (silent, false, "set them in its URL"),
            ("HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n", true, "does not accept"),
            (other, false, "another kind"),
            (other, true, "another kind"),
        ] {
            let error = answered(head, has_credentials).unwrap_err();
            assert!(error.starts_with("Credentials(") && error.contains(told), "{head}: {error}");
        }
    }
}
