//! `tokio-tungstenite`, which leaves the heartbeat to its user.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::Failure;
use crate::stage::{self, CLIENT_TIMEOUT, Closing, PING_INTERVAL, say};

pub(crate) async fn run(address: (&str, u16)) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).await?;
    let tls = tls_of_environment()?;
    let closing = stage::begin("tokio-tungstenite", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let (tls, closing) = (tls.clone(), closing.clone());
        tokio::spawn(async move {
            let code = open(stream, tls, closing).await.unwrap_or(1006);
            say(&format!("closed {code}"));
        });
    }
}

/// With what to encrypt, if at all: tests/support/certificates.py says it.
fn tls_of_environment() -> Result<Option<TlsAcceptor>, Failure> {
    let (Ok(chain), Ok(key)) = (std::env::var("TLS_CERT"), std::env::var("TLS_KEY")) else { return Ok(None) };
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

async fn open(stream: TcpStream, tls: Option<TlsAcceptor>, closing: Closing) -> Option<u16> {
    match tls {
        Some(tls) => serve(tls.accept(stream).await.ok()?, closing).await,
        None => serve(stream, closing).await,
    }
}

/// Serves one connection. Gives the code it was closed with, if it was.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, mut closing: Closing) -> Option<u16> {
    let mut socket = accept_async(stream).await.ok()?;
    say("open");
    closing.mark_unchanged();
    let mut beat = tokio::time::interval(PING_INTERVAL);
    let mut alive_at = Instant::now();
    loop {
        tokio::select! {
            _ = beat.tick() => {
                if alive_at.elapsed() > CLIENT_TIMEOUT {
                    return None;
                }
                socket.send(Message::Ping("beat".into())).await.ok()?;
            }
            _ = closing.changed() => {
                socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })).await.ok()?;
            }
            message = socket.next() => match message?.ok()? {
                message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await.ok()?,
                Message::Pong(_) => {
                    alive_at = Instant::now();
                    say("pong");
                }
                Message::Close(frame) => {
                    // Reads on to the end of the stream, as the library wants it, and sends the answer by that.
                    while let Some(Ok(_)) = socket.next().await {}
                    return Some(frame.map_or(1005, |frame| frame.code.into()));
                }
                _ => {}
            },
        }
    }
}
