//! `heartwire subscribe`: prints the messages of topics, a line each.
//!
//! `main` runs the client, whose handler prints. With a position file, a thread of its own keeps it (`positions`).

use heartwire::{ConnectError, Delivery, Error, Subscription, TopicsClient};

use crate::Failure;
use crate::cli::{Begin, SubscribeOptions};
use crate::output;

mod line;
mod positions;

use line::Printer;
use positions::PositionFile;

pub(crate) fn run(options: &SubscribeOptions) -> Result<(), Failure> {
    let client = options.client.client().map_err(Failure::of_client)?;
    output::start_log(&options.client.log)?;
    options.client.tls.warn();
    let topics = options.token.apply_to(client)?;
    let file = options.position_file.clone().map(PositionFile::open).transpose()?;
    subscribe(&topics, options, file.as_ref());
    let handle = topics.handle();
    let stop = handle.clone();
    output::on_signals(move || stop.stop())?;
    let keeper = file.map(|file| file.keep(options.topic.clone(), handle.clone())).transpose()?;

    let printer = Printer::new(options.json, options.topic.len() > 1);
    let (mut printed, mut refused) = (0, None);
    let result = topics.run(|delivery| {
        let is_message = matches!(delivery, Delivery::Message { .. });
        if let Delivery::Refused { topic, refusal, .. } = &delivery {
            refused = Some(format!("cannot subscribe to {topic}: {refusal}"));
            handle.stop();
            return Ok(());
        }
        // When nobody reads our output any more, there is nothing left to do: the error ends the client.
        let cannot = |error| Error::handler(format!("cannot write to standard output: {error}"));
        printer.print(&delivery).map_err(cannot)?;
        printed += u64::from(is_message);
        if options.count.is_some_and(|count| is_message && printed == count) {
            handle.stop();
        }
        Ok(())
    });
    // By now all that was printed is known.
    let kept = keeper.map_or(Ok(()), positions::Keeper::finish);
    if let Err(error @ Error::Connect(ConnectError::Invalid(_))) = result {
        return Err(Failure::of_client(error));
    }
    let causes = [result.err().map(|error| error.to_string()), refused, kept.err()];
    let causes: Vec<_> = causes.into_iter().flatten().collect();
    if causes.is_empty() { Ok(()) } else { Err(Failure::Run(causes.join("; "))) }
}

fn subscribe(topics: &TopicsClient, options: &SubscribeOptions, file: Option<&PositionFile>) {
    for topic in &options.topic {
        let subscription = Subscription::from(topic.clone()).presence(options.presence);
        let known = file.and_then(|file| file.position(topic)).map(Begin::After);
        let subscription = match known.or(options.since) {
            None => subscription,
            Some(Begin::Earliest) => subscription.since_earliest(),
            Some(Begin::After(position)) => subscription.since(position),
        };
        topics.subscribe(subscription).expect("it is the name of a topic");
    }
}
