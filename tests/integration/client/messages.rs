//! Messages of a client, and what it tells of its connection.

use std::collections::HashSet;

use crossbeam_channel::{bounded, unbounded};
use heartwire::Message;

use super::forward;
use crate::support::{
    BareServer, CEILING, CLOSE, PING, PONG, TEXT, acceptance, client, client_for, codes, echo, listen, receive, run,
    server, start, unmasked, url,
};

#[test]
fn messages_of_every_size_come_back_whole_and_in_order() {
    const BIG: usize = 5 << 20;
    let running = start(server().max_message_size(BIG), echo);
    let (sender, messages) = unbounded();
    let client = run(client(running.address()).max_message_size(BIG), forward(sender));
    assert!(client.handle.wait_connected(CEILING));
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, BIG] {
        for message in [Message::from("x".repeat(size)), Message::from(vec![0x7f; size])] {
            client.handle.send(message.clone()).unwrap();
            assert!(receive("the echo", &messages) == message, "{size} bytes");
        }
    }
    client.stop();
    let report = running.closed();
    assert_eq!((report.traffic.messages_in, report.traffic.messages_out), (16, 16));
    assert_eq!(codes(&report), (Some(1000), Some(1000)));
}

#[test]
fn what_comes_in_one_piece_with_the_answer_of_the_handshake_is_not_lost() {
    let server = BareServer::bind();
    let (sender, messages) = unbounded();
    let _client = run(client(server.address()), forward(sender));
    let mut connection = server.accept();
    let request = connection.request();
    let mut answer = acceptance(&request, "").into_bytes();
    answer.extend(unmasked(TEXT, b"early"));
    answer.extend(unmasked(TEXT, b"bird"));
    connection.write(&answer);
    assert_eq!(receive("the first", &messages), Message::from("early"));
    assert_eq!(receive("the second", &messages), Message::from("bird"));
    connection.close(1000);
}

#[test]
fn no_two_frames_have_the_same_mask_and_no_two_handshakes_the_same_key() {
    let server = BareServer::bind();
    let client = run(client(server.address()), listen);
    let mut keys = HashSet::new();
    let mut masks = HashSet::new();
    for _ in 0..3 {
        let mut connection = server.accept();
        let request = connection.upgrade("");
        keys.insert(request.lines().find(|line| line.starts_with("Sec-WebSocket-Key")).unwrap().to_owned());
        assert!(client.handle.wait_connected(CEILING));
        for _ in 0..20 {
            client.handle.send("the same").unwrap();
            let frame = connection.frame();
            assert_eq!((frame.opcode, frame.payload), (TEXT, b"the same".to_vec()));
            masks.insert(frame.mask);
        }
        // Control frames have masks as well.
        for payload in [&b"one"[..], b"one", b"two"] {
            connection.send(PING, payload);
            let frame = connection.frame();
            assert_eq!((frame.opcode, &frame.payload[..]), (PONG, payload));
            masks.insert(frame.mask);
        }
        connection.send_close(1000);
        let close = connection.frame();
        assert_eq!(close.opcode, CLOSE);
        masks.insert(close.mask);
    }
    assert_eq!((keys.len(), masks.len()), (3, 3 * 24), "{masks:?}");
}

#[test]
fn a_connection_tells_what_it_asked_for_and_what_was_agreed_upon() {
    let running = start(
        server().on_handshake(|request| {
            assert_eq!(request.header("Authorization"), Some("Bearer swordfish"));
            Ok(heartwire::Accept::new().subprotocol("second"))
        }),
        echo,
    );
    let asked = client_for(&url(running.address(), "/a/b?c=d")).header("Authorization", "Bearer swordfish");
    let (sender, seen) = bounded(1);
    run(asked.subprotocol("first").subprotocol("second"), move |conn| {
        let figures =
            (conn.path().to_owned(), conn.request().target().to_owned(), conn.subprotocol().map(str::to_owned));
        let _ = sender.send((figures, conn.peer_addr(), conn.id()));
        Ok(())
    })
    .result()
    .unwrap();
    let (figures, peer, id) = receive("the connection", &seen);
    assert_eq!(figures, ("/a/b".to_owned(), "/a/b?c=d".to_owned(), Some("second".to_owned())));
    assert_eq!((peer, id), (running.address(), 1));
}
