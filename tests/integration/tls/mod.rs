//! TLS on both ends: that it works at all, and what clients get that do not speak it.

use std::sync::mpsc;

use heartwire::{Client, ClientTls, Server, ServerTls};
use rcgen::{CertifiedKey, generate_simple_self_signed};

#[test]
fn a_client_and_a_server_talk() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = ServerTls::from_pem(cert.pem(), signing_key.serialize_pem()).unwrap();
    let server = Server::bind("127.0.0.1:0").unwrap().tls(tls);
    let (address, handle) = (server.local_addr(), server.handle());
    let serving = std::thread::spawn(move || {
        server.serve(|conn| {
            loop {
                let message = conn.recv()?;
                conn.send(message)?;
            }
        })
    });
    let tls = ClientTls::new().ca_pem(cert.pem()).unwrap();
    let (told, replies) = mpsc::channel();
    let client = Client::new(&format!("wss://localhost:{}/", address.port())).unwrap().tls(tls);
    client
        .run(move |conn| {
            for size in [0, 1, 100, 5000, 100_000, 1_000_000] {
                conn.send(vec![7; size])?;
                told.send(conn.recv()?.as_bytes().len()).unwrap();
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(replies.iter().collect::<Vec<_>>(), [0, 1, 100, 5000, 100_000, 1_000_000]);
    handle.shutdown();
    serving.join().unwrap().unwrap();
}
