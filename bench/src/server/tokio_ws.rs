//! tokio-tungstenite on a runtime with a worker for each core, its default.

use std::io;
use std::time::Instant;

use futures_util::{SinkExt, StreamExt, TryStreamExt, future};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};
use tungstenite::Message;
use tungstenite::protocol::WebSocketConfig;

use super::ServeOptions;
use super::hand_written::HandWritten;
use super::handler::{Calls, Work};
use crate::process::announce;
use crate::tls;

/// How an echo answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    Send,
    Forward,
}

/// Messages that a connection may lag behind before it loses some.
const CHANNEL: usize = 1024;

/// `buffers`: their size in bytes; tungstenite's own default of 128 KiB if not given.
pub(super) fn serve(reply: Reply, buffers: Option<usize>, options: &ServeOptions) -> io::Result<()> {
    let acceptor = options.tls.as_deref().map(tls::server).transpose()?.map(TlsAcceptor::from);
    let config = buffers.map(|size| WebSocketConfig::default().read_buffer_size(size).write_buffer_size(size));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?);
        let to_all = broadcast::channel(CHANNEL).0;
        loop {
            let (stream, _) = listener.accept().await?;
            if options.broadcast {
                tokio::spawn(fan_out(stream, config, to_all.clone()));
            } else if let Some(acceptor) = acceptor.clone() {
                tokio::spawn(async move {
                    stream.set_nodelay(true).ok()?;
                    echo(acceptor.accept(stream).await.ok()?, config, reply).await
                });
            } else {
                tokio::spawn(async move {
                    stream.set_nodelay(true).ok()?;
                    echo(stream, config, reply).await
                });
            }
        }
    })
}

/// With a handler that does what messages ask for.
pub(super) fn serve_handler(options: &ServeOptions) -> io::Result<()> {
    let calls = options.handler.unwrap_or(Calls::InPlace);
    let heartbeat = HandWritten::of(options);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(handled(stream, calls, heartbeat));
        }
    })
}

/// The shape of its example `interval-server`: messages and ticks in one task. A tick sends a Ping, and looks at when
/// the last Pong came.
async fn handled(stream: TcpStream, calls: Calls, heartbeat: HandWritten) -> Option<()> {
    let mut websocket = open(stream, None).await?;
    let mut interval = tokio::time::interval(heartbeat.interval);
    let mut last_pong = Instant::now();
    loop {
        tokio::select! {
            message = websocket.next() => {
                let message = message?.ok()?;
                if is_data(&message) {
                    let work = Work::of(match &message {
                        Message::Text(text) => text.as_bytes(),
                        Message::Binary(bytes) => bytes,
                        _ => &[],
                    });
                    match calls {
                        Calls::Offloaded if work != Work::Nothing => {
                            tokio::task::spawn_blocking(move || work.run()).await.ok()?;
                        }
                        _ => work.run(),
                    }
                    websocket.send(message).await.ok()?;
                } else if message.is_pong() {
                    last_pong = Instant::now();
                }
            }
            _ = interval.tick() => {
                if last_pong.elapsed() > heartbeat.bound {
                    return None;
                }
                websocket.send(Message::Ping(Default::default())).await.ok()?;
            }
        }
    }
}

async fn open(stream: TcpStream, config: Option<WebSocketConfig>) -> Option<WebSocketStream<TcpStream>> {
    stream.set_nodelay(true).ok()?;
    accept_async_with_config(stream, config).await.ok()
}

async fn echo<S>(stream: S, config: Option<WebSocketConfig>, reply: Reply) -> Option<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut websocket = accept_async_with_config(stream, config).await.ok()?;
    match reply {
        Reply::Send => {
            while let Some(message) = websocket.next().await {
                let message = message.ok()?;
                if is_data(&message) {
                    websocket.send(message).await.ok()?;
                }
            }
            Some(())
        }
        Reply::Forward => {
            let (write, read) = websocket.split();
            read.try_filter(|message| future::ready(is_data(message))).forward(write).await.ok()
        }
    }
}

/// The usual shape: every connection's task listens to its peer and to a channel.
async fn fan_out(stream: TcpStream, config: Option<WebSocketConfig>, to_all: broadcast::Sender<Message>) -> Option<()> {
    let mut websocket = open(stream, config).await?;
    let mut from_all = to_all.subscribe();
    loop {
        tokio::select! {
            message = websocket.next() => {
                let message = message?.ok()?;
                if is_data(&message) {
                    to_all.send(message).ok()?;
                }
            }
            message = from_all.recv() => match message {
                Ok(message) => websocket.send(message).await.ok()?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            },
        }
    }
}

fn is_data(message: &Message) -> bool {
    message.is_binary() || message.is_text()
}
