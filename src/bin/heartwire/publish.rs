//! `heartwire publish`: publishes lines of standard input, each once.
//!
//! One thread reads lines ahead, one hands them over, one takes the outcomes, in order, and decides about the end
//! (`pipeline`), and `main` runs the client.

use std::io;
use std::sync::Arc;

use heartwire::{ConnectError, Error, Message};

use crate::Failure;
use crate::cli::PublishOptions;
use crate::output;

mod pipeline;

use pipeline::Pipeline;

pub(crate) fn run(options: &PublishOptions) -> Result<(), Failure> {
    /// Room for many lines beside the longest.
    const OUTBOX: usize = 1024 * 1024;
    let client = options.client.client().map_err(Failure::of_client)?;
    output::start_log(&options.client.log)?;
    options.client.tls.warn();
    let outbox = options.client.settings.max_message_size().saturating_add(OUTBOX);
    let topics = options.token.apply_to(client)?.outbox_size(outbox);
    let handle = topics.handle();
    let pipeline = Arc::new(Pipeline::default());
    let ending = Arc::clone(&pipeline);
    output::on_signals(move || ending.input.end())?;

    if let Some(message) = &options.message {
        pipeline.input.push(Message::from(message));
        pipeline.input.end();
    } else {
        let reading = Arc::clone(&pipeline);
        output::start_thread("heartwire-stdin", move || {
            if let Err(error) = reading.input.read(io::stdin().lock()) {
                reading.fail(error);
            }
        })?;
    }
    let (publishing, publisher, topic) = (Arc::clone(&pipeline), handle.clone(), options.topic.to_string());
    output::start_thread("heartwire-publish", move || {
        publishing.hand_over_all(|message| publisher.try_publish(&topic, message));
    })?;
    let (settling, exit_timeout) = (Arc::clone(&pipeline), options.exit_timeout);
    output::start_thread("heartwire-replies", move || settling.settle_all(exit_timeout, || handle.stop()))?;

    let result = topics.run(|_| Ok(()));
    if let Err(error @ Error::Connect(ConnectError::Invalid(_))) = result {
        return Err(Failure::of_client(error));
    }
    let outcome = pipeline.outcome();
    log::info!("{} published to {}", pipeline::counted(outcome.published, "message"), options.topic);
    let causes: Vec<_> = result.err().map(|error| error.to_string()).into_iter().chain(outcome.causes).collect();
    if causes.is_empty() { Ok(()) } else { Err(Failure::Run(causes.join("; "))) }
}
