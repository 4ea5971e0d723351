//! `actix-ws` with the heartbeat that actix's examples have: a Ping on schedule, and an end to whoever answers none.

use std::io;
use std::net::TcpListener;
use std::time::Instant;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, rt, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, Closed, Session};
use futures_util::StreamExt;

use crate::stage::{self, CLIENT_TIMEOUT, Closing, PING_INTERVAL, say};

/// The library's own limit is 64 KiB.
const MAX_SIZE: usize = 2 << 20;

pub(crate) async fn run(address: (&str, u16)) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let closing = stage::begin("actix-ws", listener.local_addr()?);
    let app = move || App::new().app_data(web::Data::new(closing.clone())).default_service(web::to(open));
    HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run().await
}

async fn open(
    request: HttpRequest,
    body: web::Payload,
    closing: web::Data<Closing>,
) -> Result<HttpResponse, actix_web::Error> {
    let (response, session, stream) = actix_ws::handle(&request, body)?;
    let stream = stream.max_frame_size(MAX_SIZE).aggregate_continuations().max_continuation_size(MAX_SIZE);
    let mut closing = Closing::clone(&closing);
    closing.mark_unchanged();
    rt::spawn(async move {
        say("open");
        let code = serve(session, stream, closing).await.ok().flatten().unwrap_or(1006);
        say(&format!("closed {code}"));
    });
    Ok(response)
}

/// Serves one connection. Gives the code it was closed with, if it was.
async fn serve(
    mut session: Session,
    mut stream: AggregatedMessageStream,
    mut closing: Closing,
) -> Result<Option<u16>, Closed> {
    let mut beat = rt::time::interval(PING_INTERVAL);
    let mut alive_at = Instant::now();
    loop {
        tokio::select! {
            _ = beat.tick() => {
                if alive_at.elapsed() > CLIENT_TIMEOUT {
                    session.close(None).await?;
                    return Ok(None);
                }
                session.ping(b"").await?;
            }
            _ = closing.changed() => {
                // The library ends the stream with its Close frame: nobody hears the answer.
                session.close(Some(CloseCode::Away.into())).await?;
                return Ok(Some(CloseCode::Away.into()));
            }
            message = stream.next() => match message {
                Some(Ok(AggregatedMessage::Text(text))) => session.text(text).await?,
                Some(Ok(AggregatedMessage::Binary(bytes))) => session.binary(bytes).await?,
                Some(Ok(AggregatedMessage::Ping(payload))) => session.pong(&payload).await?,
                Some(Ok(AggregatedMessage::Pong(_))) => {
                    alive_at = Instant::now();
                    say("pong");
                }
                Some(Ok(AggregatedMessage::Close(reason))) => {
                    let code = reason.as_ref().map_or(1005, |reason| reason.code.into());
                    session.close(reason).await?;
                    return Ok(Some(code));
                }
                Some(Err(_)) | None => return Ok(None),
            },
        }
    }
}
