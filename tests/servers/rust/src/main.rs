//! The servers in Rust: `tokio-tungstenite` and `actix-ws`, each with a heartbeat of its own.
//!
//! Usage: `heartwire-test-servers tokio-tungstenite|actix-ws PORT`. What a server does is written in server.py.

mod actix_server;
mod stage;
mod tokio_server;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, port] = &arguments[..] else { return Err("usage: heartwire-test-servers KIND PORT".into()) };
    let address = ("127.0.0.1", port.parse()?);
    match kind.as_str() {
        "tokio-tungstenite" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(tokio_server::run(address))
        }
        "actix-ws" => Ok(actix_web::rt::System::new().block_on(actix_server::run(address))?),
        _ => Err(format!("no server {kind}").into()),
    }
}
