//! The peers in Rust: `tokio-tungstenite` and actix's `awc`, which answers no Ping unless its user does.
//!
//! Usage: `heartwire-test-peers tokio-tungstenite|awc-silent|awc-answering URL`. What a peer does is written in
//! peer.py.

mod awc_client;
mod script;
mod tokio_client;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, url] = &arguments[..] else { return Err("usage: heartwire-test-peers KIND URL".into()) };
    match kind.as_str() {
        "tokio-tungstenite" => {
            script::say(&format!("version {}", script::version_of("tokio-tungstenite")));
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(tokio_client::run(url))
        }
        "awc-silent" | "awc-answering" => {
            script::say(&format!("version {}", script::version_of("awc")));
            actix_rt::System::new().block_on(awc_client::run(url, kind == "awc-answering"))
        }
        _ => Err(format!("no peer {kind}").into()),
    }
}
