//! actix's `awc`, which hands Pings to its user and answers none: alive by TCP, dead by heartbeat.

use actix_http::ws::{CloseCode, Frame, Item, Message};
use futures_util::{SinkExt, StreamExt};

use crate::Failure;
use crate::script::{Payload, Script, Step, say};

pub(crate) async fn run(url: &str, answers: bool) -> Result<(), Failure> {
    let client = awc::Client::new();
    let (_, mut socket) = client.ws(url).max_frame_size(2 << 20).connect().await.map_err(|error| error.to_string())?;
    let mut script = Script::begin();
    loop {
        tokio::select! {
            step = script.next() => match step {
                Step::Send(payload) => for message in messages(payload) { socket.send(message).await? },
                Step::Close => socket.send(Message::Close(Some(CloseCode::Normal.into()))).await?,
                Step::AwaitClose => {}
                Step::End => return Ok(()),
            },
            frame = socket.next() => match frame {
                Some(Ok(Frame::Text(text))) => script.text_came(&text),
                Some(Ok(Frame::Binary(bytes))) => script.binary_came(&bytes),
                Some(Ok(Frame::Ping(payload))) if answers => socket.send(Message::Pong(payload)).await?,
                Some(Ok(Frame::Close(reason))) => {
                    let code = reason.as_ref().map_or(1005, |reason| reason.code.into());
                    // The answer, which is by hand as well. It fails if the Close was the answer to ours.
                    let _ = socket.send(Message::Close(reason)).await;
                    say(&format!("closed {code}"));
                    return Ok(());
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}

fn messages(payload: Payload) -> Vec<Message> {
    match payload {
        Payload::Binary(bytes) => vec![Message::Binary(bytes.into())],
        Payload::Text(parts) if parts.len() == 1 => vec![Message::Text(parts.concat().into())],
        Payload::Text(parts) => {
            let last = parts.len() - 1;
            let item = |(i, part): (usize, String)| {
                Message::Continuation(match i {
                    0 => Item::FirstText(part.into()),
                    _ if i < last => Item::Continue(part.into()),
                    _ => Item::Last(part.into()),
                })
            };
            parts.into_iter().enumerate().map(item).collect()
        }
    }
}
