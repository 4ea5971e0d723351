//! `tokio-tungstenite`, which answers Pings whenever it is polled.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::Failure;
use crate::script::{Payload, Script, Step, say};

pub(crate) async fn run(url: &str) -> Result<(), Failure> {
    let (mut socket, _) = connect_async(url).await?;
    let mut script = Script::begin();
    loop {
        tokio::select! {
            step = script.next() => match step {
                Step::Send(payload) => for message in messages(payload) { socket.send(message).await? },
                Step::Close => socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await?,
                Step::AwaitClose => {}
                Step::End => return Ok(()),
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => script.text_came(text.as_bytes()),
                Some(Ok(Message::Binary(bytes))) => script.binary_came(&bytes),
                Some(Ok(Message::Close(frame))) => {
                    say(&format!("closed {}", frame.map_or(1005, |frame| frame.code.into())));
                    // Reads on to the end of the stream, as the library wants it, and sends the answer by that.
                    while let Some(Ok(_)) = socket.next().await {}
                    return Ok(());
                }
                Some(Ok(_)) => {}
                Some(Err(Error::ConnectionClosed)) | None => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
            },
        }
    }
}

fn messages(payload: Payload) -> Vec<Message> {
    match payload {
        Payload::Binary(bytes) => vec![Message::binary(bytes)],
        Payload::Text(parts) if parts.len() == 1 => vec![Message::text(parts.concat())],
        Payload::Text(parts) => {
            let last = parts.len() - 1;
            let frame = |(i, part): (usize, String)| {
                let kind = if i == 0 { Data::Text } else { Data::Continue };
                Message::Frame(Frame::message(part, OpCode::Data(kind), i == last))
            };
            parts.into_iter().enumerate().map(frame).collect()
        }
    }
}
