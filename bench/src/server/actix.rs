//! actix-ws on actix-web, with a worker for each core, its default.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, rt, web};
use actix_ws::{Message, Session};
use futures_util::StreamExt;

use super::ServeOptions;
use super::hand_written::HandWritten;
use super::handler::{Calls, Work};
use crate::process::announce;

/// Above what it allows by default (64 KiB), for the bulk messages.
const LARGEST: usize = 4 * 1024 * 1024;

pub(super) fn serve(options: &ServeOptions) -> io::Result<()> {
    let calls = options.handler;
    let heartbeat = HandWritten::of(options);
    rt::System::new().block_on(async {
        let server = HttpServer::new(move || {
            let route = match calls {
                Some(calls) => web::get().to(move |request, body| upgraded_handled(request, body, calls, heartbeat)),
                None => web::get().to(upgraded),
            };
            App::new().route("/bench", route)
        });
        let server = server.max_connections(20_000).tcp_nodelay(true).disable_signals().bind("127.0.0.1:0")?;
        announce(server.addrs()[0]);
        server.run().await
    })
}

async fn upgraded(request: HttpRequest, body: web::Payload) -> Result<HttpResponse, Error> {
    let (response, mut session, stream) = actix_ws::handle(&request, body)?;
    let mut stream = stream.max_frame_size(LARGEST);
    rt::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let sent = match message {
                Message::Text(text) => session.text(text).await,
                Message::Binary(bytes) => session.binary(bytes).await,
                Message::Ping(bytes) => session.pong(&bytes).await,
                Message::Close(reason) => {
                    let _ = session.close(reason).await;
                    return;
                }
                _ => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(response)
}

/// With a handler that does what messages ask for. The heartbeat is that of its example `chat`: a task that sends a
/// Ping at each tick, and looks at when the last Pong came.
async fn upgraded_handled(
    request: HttpRequest,
    body: web::Payload,
    calls: Calls,
    heartbeat: HandWritten,
) -> Result<HttpResponse, Error> {
    let (response, mut session, mut stream) = actix_ws::handle(&request, body)?;
    let alive = Rc::new(Cell::new(Instant::now()));
    rt::spawn(beat(session.clone(), heartbeat, Rc::clone(&alive)));
    rt::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let work = match &message {
                Message::Text(text) => Work::of(text.as_bytes()),
                Message::Binary(bytes) => Work::of(bytes),
                _ => Work::Nothing,
            };
            match calls {
                Calls::Offloaded if work != Work::Nothing => {
                    if web::block(move || work.run()).await.is_err() {
                        return;
                    }
                }
                _ => work.run(),
            }
            let sent = match message {
                Message::Text(text) => session.text(text).await,
                Message::Binary(bytes) => session.binary(bytes).await,
                Message::Ping(bytes) => session.pong(&bytes).await,
                Message::Pong(_) => {
                    alive.set(Instant::now());
                    Ok(())
                }
                Message::Close(reason) => {
                    let _ = session.close(reason).await;
                    return;
                }
                _ => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(response)
}

async fn beat(mut session: Session, heartbeat: HandWritten, alive: Rc<Cell<Instant>>) {
    let mut interval = rt::time::interval(heartbeat.interval);
    loop {
        interval.tick().await;
        if session.ping(b"").await.is_err() {
            return;
        }
        if alive.get().elapsed() > heartbeat.bound {
            let _ = session.close(None).await;
            return;
        }
    }
}
