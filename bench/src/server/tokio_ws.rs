//! tokio-tungstenite on a runtime with a worker for each core, its default.

use std::io;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async_with_config;
use tungstenite::protocol::WebSocketConfig;

use crate::process::announce;

/// `buffers`: their size in bytes; tungstenite's own default of 128 KiB if not given.
pub(super) fn serve(buffers: Option<usize>) -> io::Result<()> {
    let config = buffers.map(|size| WebSocketConfig::default().read_buffer_size(size).write_buffer_size(size));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream, config));
        }
    })
}

async fn echo(stream: TcpStream, config: Option<WebSocketConfig>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut websocket = accept_async_with_config(stream, config).await.ok()?;
    while let Some(message) = websocket.next().await {
        let message = message.ok()?;
        if message.is_binary() || message.is_text() {
            websocket.send(message).await.ok()?;
        }
    }
    Some(())
}
