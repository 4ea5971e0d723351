//! A peer that breaks the protocol is told how, by the right close code, and loses nothing that it was owed.

use heartwire::{CloseReason, CloseReport};

use crate::support::{
    BINARY, CLOSE, CONTINUATION, Client, End, PING, PONG, Running, TEXT, close_payload, codes, echo, fragment, masked,
    request_with, server, start,
};

/// What a client that sends these bytes gets, and what the server reports.
fn violation(running: &Running, bytes: &[u8]) -> (Option<u16>, CloseReport) {
    let mut client = running.connect();
    client.write(bytes);
    let (code, reason) = client.expect_close();
    assert!(!reason.is_empty(), "it is told why");
    assert_eq!(client.expect_end(), End::Clean, "the Close frame must not be lost by a reset");
    drop(client);
    (code, running.closed())
}

#[test]
fn every_violation_of_the_protocol_closes_with_1002() {
    let unmasked = |opcode: u8| vec![0x80 | opcode, 2, b'h', b'i'];
    let open_text = fragment(TEXT, b"begun");
    let after_open_text = |frame: Vec<u8>| [open_text.clone(), frame].concat();
    let mut table: Vec<(String, Vec<u8>)> = Vec::new();
    for bit in [0x40, 0x20, 0x10] {
        table.push((format!("rsv {bit:#x}"), fragment(0x80 | bit | TEXT, b"hi")));
        table.push((format!("rsv {bit:#x} on a Ping"), fragment(0x80 | bit | PING, b"hi")));
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        table.push((format!("opcode {opcode}"), masked(opcode, b"hi")));
    }
    for opcode in [TEXT, BINARY, PING, PONG] {
        table.push((format!("unmasked {opcode}"), unmasked(opcode)));
    }
    table.push(("unmasked Close".into(), vec![0x88, 0]));
    for opcode in [CLOSE, PING, PONG] {
        table.push((format!("fragmented control {opcode}"), fragment(opcode, b"")));
        table.push((format!("control {opcode} of 126"), masked(opcode, &[0x03; 126])));
        table.push((format!("control {opcode} of 70,000"), masked(opcode, &[0x03; 70_000])));
    }
    table.push(("continuation of nothing".into(), masked(CONTINUATION, b"hi")));
    table.push(("unfinished continuation of nothing".into(), fragment(CONTINUATION, b"hi")));
    table.push(("text inside text".into(), after_open_text(masked(TEXT, b"hi"))));
    table.push(("binary inside text".into(), after_open_text(fragment(BINARY, b"hi"))));
    table.push((
        "continuation after the end".into(),
        [after_open_text(masked(CONTINUATION, b"")), masked(CONTINUATION, b"")].concat(),
    ));
    table.push(("close code cut short".into(), masked(CLOSE, &[3])));
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        table.push((format!("close code {code}"), masked(CLOSE, &close_payload(code, "why"))));
    }
    let running = start(server(), |conn| {
        loop {
            conn.recv()?;
        }
    });
    for (what, bytes) in table {
        let (code, report) = violation(&running, &bytes);
        assert_eq!(code, Some(1002), "{what}");
        assert!(matches!(report.reason, CloseReason::Protocol(_)), "{what}: {report:?}");
        assert_eq!(codes(&report), (Some(1002), None), "{what}");
    }
}

#[test]
fn text_that_is_not_utf_8_closes_with_1007() {
    let table: [(&str, Vec<u8>); 8] = [
        ("a bad byte", masked(TEXT, b"ab\xffcd")),
        ("a surrogate", masked(TEXT, b"\xed\xa0\x80")),
        ("an overlong slash", masked(TEXT, b"\xc0\xaf")),
        ("beyond the last character", masked(TEXT, b"\xf4\x90\x80\x80")),
        ("cut at the end", masked(TEXT, b"\xe2\x82")),
        ("in a later fragment", [fragment(TEXT, b"\xe2"), masked(CONTINUATION, b"\x82\x41")].concat()),
        ("at once, not at the end of the message", fragment(TEXT, b"bad\xfe")),
        ("in a close reason", masked(CLOSE, &[&[0x03, 0xe8][..], b"\xff"].concat())),
    ];
    let running = start(server(), echo);
    for (what, bytes) in table {
        let (code, report) = violation(&running, &bytes);
        assert_eq!(code, Some(1007), "{what}");
        assert_eq!((&report.reason, codes(&report)), (&CloseReason::InvalidUtf8, (Some(1007), None)), "{what}");
    }
    let mut client = running.connect();
    client.write(&[fragment(TEXT, b"\xe2"), fragment(CONTINUATION, b"\x82"), masked(CONTINUATION, b"\xac")].concat());
    assert_eq!(client.text(), "€", "a character may be cut between fragments");
}

#[test]
fn max_message_size_closes_with_1009_as_soon_as_it_is_known_to_be_passed() {
    let running = start(server().max_message_size(1000), echo);
    let mut client = running.connect();
    client.expect_echo(&"x".repeat(1000));
    client.write(&[fragment(TEXT, &[b'x'; 600]), masked(CONTINUATION, &[b'x'; 400])].concat());
    assert_eq!(client.text().len(), 1000);
    client.close();
    running.closed();

    let header_of = |first: u8, len: u64| [&[first, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
    let table = [
        ("one byte more", masked(TEXT, &[b'x'; 1001]), 1001),
        ("by fragments", [fragment(BINARY, &[0; 600]), masked(CONTINUATION, &[0; 401])].concat(), 1001),
        ("by an unfinished fragment", [fragment(BINARY, &[0; 600]), fragment(CONTINUATION, &[0; 500])].concat(), 1100),
        // Nothing of the payload is ever sent: the header is enough.
        ("by the header", header_of(0x82, 1 << 40), 1 << 40),
        ("by the header of a continuation", [fragment(BINARY, &[0; 600]), header_of(0x80, 401)].concat(), 1001),
    ];
    for (what, bytes, size) in table {
        let (code, report) = violation(&running, &bytes);
        assert_eq!(code, Some(1009), "{what}");
        assert!(matches!(report.reason, CloseReason::TooBig { size: it, limit: 1000, .. } if it == size), "{report:?}");
        assert_eq!(codes(&report), (Some(1009), None));
    }
}

#[test]
fn a_violation_while_the_peer_still_sends_ends_without_a_reset() {
    let running = start(server(), echo);
    let mut client = running.connect();
    client.write(&masked(3, b"a reserved opcode"));
    for _ in 0..20 {
        client.try_write(&[0; 10_000]);
    }
    assert_eq!(client.expect_close().0, Some(1002));
    assert_eq!(client.expect_end(), End::Clean);
}

#[test]
fn messages_before_a_violation_are_served_sent_or_fed() {
    let running = start(server(), |conn| {
        loop {
            let message = conn.recv()?;
            if conn.path() == "/feed" { conn.feed(message)? } else { conn.send(message)? }
        }
    });
    for path in ["/send", "/feed"] {
        let mut client = Client::tcp(running.address()).upgraded(&request_with(path, ""));
        client.write(&[masked(TEXT, b"one"), masked(TEXT, b"two"), masked(3, b"")].concat());
        assert_eq!(client.text(), "one", "{path}");
        assert_eq!(client.text(), "two", "{path}");
        assert_eq!(client.frame().close().0, Some(1002), "{path}");
    }
}
