//! The events of a client.

use heartwire::{Backoff, Server};

use crate::support::{BareServer, client, echo, eventually, listen, ms, quick, refusal, run, start};

#[test]
fn events_tell_the_story_in_order() {
    let server = BareServer::bind();
    let backoff = Backoff::default().first(ms(2)).longest(ms(4));
    let client = run(client(server.address()).reconnect(backoff), listen);
    server.answer(&refusal(503, ""));
    let mut expected = vec!["connecting 1".to_owned(), "failed".into(), "retrying".into(), "connecting 2".into()];
    const LIVES: usize = 30;
    for life in 1..=LIVES {
        let connection = server.open();
        expected.push(format!("opened {life}"));
        if life < LIVES {
            drop(connection);
            expected.extend([format!("closed {life} disconnected"), "retrying".into()]);
            expected.push(format!("connecting {}", life + 2));
        } else {
            eventually("the last connection stands", || client.handle.stats().opened == LIVES as u64);
            connection.expect_close_at_stop(&client);
        }
    }
    expected.push(format!("closed {LIVES} local"));
    assert_eq!(client.story(), expected);
    let stats = client.handle.stats();
    assert_eq!((stats.opened, stats.open, stats.closed_total()), (LIVES as u64, 0, LIVES as u64));
}

#[test]
fn run_ends_with_its_channels_of_events_and_its_threads() {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let running = start(server, echo);
    let client = client(running.address()).reconnect(quick());
    let (handle, events) = (client.handle(), client.handle().events());
    client.run(|conn| conn.send("done")).unwrap();
    assert!(handle.has_ended());
    assert!(events.iter().count() >= 3, "and the channel ends");
    assert!(handle.events().recv().is_err(), "as does any that is asked for later");
}
