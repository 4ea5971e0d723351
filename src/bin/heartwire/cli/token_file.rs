//! The option for a token in a file, which clients of topics have.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use clap::Args;
use heartwire::{Client, ConnectError, Error, TopicsClient};

/// Where a client's token is.
#[derive(Debug, Args)]
pub(crate) struct TokenFile {
    /// Show the server the token (JWT) in this file. It is read for each connection, and again when the token is about
    /// to expire, so whoever renews it replaces the file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenFile {
    /// A client of topics that shows the token, if there is one.
    ///
    /// # Errors
    /// A text, if there is none now.
    pub(crate) fn apply_to(&self, client: Client) -> Result<TopicsClient, String> {
        let topics = client.give_up_if(gives_up()).topics();
        let Some(path) = self.token_file.clone() else { return Ok(topics) };
        read(&path)?;
        Ok(topics.token(move || read(&path).map_err(Into::into)))
    }
}

/// Decides which errors end the client. A token that was good may be renewed, so once there was a connection, a refusal
/// because of the token does not end it.
fn gives_up() -> impl Fn(&Error) -> bool + Send + Sync + 'static {
    let was_connected = AtomicBool::new(false);
    move |error| match error {
        Error::Closed(_) => {
            was_connected.store(true, SeqCst);
            error.is_fatal()
        }
        Error::Connect(ConnectError::Refused { status: 401, .. }) => !was_connected.load(SeqCst),
        _ => error.is_fatal(),
    }
}

/// The token. Errors show nothing of it.
fn read(path: &Path) -> Result<String, String> {
    /// The header that it goes into may have no more.
    const MAX_SIZE: u64 = 8 * 1024;
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut text));
    let wrong = match read {
        Err(error) => format!("it cannot be read: {error}"),
        Ok(size) if size as u64 > MAX_SIZE => "it is too large for a token".to_owned(),
        Ok(_) if text.trim().is_empty() => "it is empty".to_owned(),
        Ok(_) => return Ok(text.trim().to_owned()),
    };
    Err(format!("token file {}: {wrong}", path.display()))
}
