//! actix-ws on actix-web, with a worker for each core, its default.

use std::io;

use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, rt, web};
use actix_ws::Message;
use futures_util::StreamExt;

use crate::process::announce;

/// Above what it allows by default (64 KiB), for the bulk messages.
const LARGEST: usize = 4 * 1024 * 1024;

pub(super) fn serve() -> io::Result<()> {
    rt::System::new().block_on(async {
        let server = HttpServer::new(|| App::new().route("/bench", web::get().to(upgraded)));
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
