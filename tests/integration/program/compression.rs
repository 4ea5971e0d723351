//! `--deflate` of both commands: what is agreed, and that it saves bytes.

use serde_json::Value;

use crate::support::deflate::inflated;
use crate::support::process::{connect, next_text, serve, start_client, tcp, type_all};
use crate::support::wire::Wire;
use crate::support::{BareServer, Client, TEXT, request_with};

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

#[test]
fn the_server_agrees_as_it_was_told_to() {
    for (arguments, agreed) in [
        (&["127.0.0.1:0"][..], None),
        (&["127.0.0.1:0", "--deflate", "off"], None),
        (
            &["127.0.0.1:0", "--deflate", "on"],
            Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ),
        (&["127.0.0.1:0", "--deflate", "context"], Some("permessage-deflate")),
    ] {
        let server = serve(arguments);
        // The program speaks no TLS here, whatever the other tests run over.
        let mut client = Client::on(Wire::plain(tcp(server.address())));
        client.write(request_with("/", OFFER).as_bytes());
        assert_eq!(client.answer().header("Sec-WebSocket-Extensions"), agreed, "{arguments:?}");
        let text = "the same again and again, ".repeat(100);
        client.send(TEXT, &text);
        let frame = client.message();
        assert_eq!(frame.is_compressed, agreed.is_some(), "{arguments:?}");
        let came_back = if frame.is_compressed { inflated(&frame.payload) } else { frame.payload };
        assert_eq!(came_back, text.into_bytes());
    }
}

#[test]
fn the_status_page_says_what_was_agreed() {
    let server = serve(&["127.0.0.1:0", "--deflate", "on"]);
    let mut client = Client::on(Wire::plain(tcp(server.address())));
    client.write(request_with("/", OFFER).as_bytes());
    let agreed = client.answer().header("Sec-WebSocket-Extensions").unwrap().to_owned();
    server.stderr.line_with(&["#1 ", "opened"]);
    let mut watcher = connect(server.address(), "/heartwire/status");
    let state: Value = serde_json::from_str(&next_text(&mut watcher)).unwrap();
    assert_eq!(state["connections"][0]["extensions"], agreed);
    assert_eq!(state["connections"][1]["extensions"], "", "the watcher offers nothing");
}

#[test]
fn the_client_offers_it_unless_it_is_told_not_to() {
    for (arguments, offer) in [
        (
            &[][..],
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             client_max_window_bits\r\n",
        ),
        (&["--deflate", "context"], "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"),
        (&["--deflate", "off"], ""),
    ] {
        let server = BareServer::bind();
        let (_client, _stdin) = start_client(&format!("ws://{}/", server.address()), arguments);
        let request = server.accept().request();
        assert_eq!(request.contains("Extensions"), !offer.is_empty());
        assert!(request.contains(offer), "{request}");
    }
}

#[test]
fn both_commands_save_bytes_together() {
    let line = "the same again and again, ".repeat(400);
    let mut on_the_wire = Vec::new();
    for mode in ["off", "on"] {
        let server = serve(&["127.0.0.1:0", "--deflate", mode]);
        let (mut client, stdin) = start_client(&format!("ws://{}/", server.address()), &[]);
        type_all(stdin, line.clone());
        assert_eq!(client.wait().code(), Some(0));
        assert_eq!(client.stdout.lines(), [&*line]);
        let report = server.stderr.line_with(&["#1 ", "ended: ", " B on the wire"]);
        let bytes = report.split("message out, ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        on_the_wire.push(bytes.parse::<usize>().unwrap());
    }
    assert!(on_the_wire[0] > line.len() && on_the_wire[1] < line.len() / 10, "{on_the_wire:?}");
}
