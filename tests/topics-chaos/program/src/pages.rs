//! Pages that subscribe by heartwire.js, all in one process of Node.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::record::{Event, Position};
use crate::subscriber::{Counters, Taken};
use crate::{number_of, topic_name, topic_number};

/// What each page got of each topic, or what was wrong.
type Outcome = Result<Vec<BTreeMap<usize, Taken>>, String>;

pub(crate) struct Pages {
    child: Child,
    /// Protects what comes from them.
    taken: Arc<Mutex<Outcome>>,
    reader: Option<JoinHandle<()>>,
}

impl Pages {
    /// Starts them: each with the port of its line, and its topics, and all with a token if there is one. `None` if
    /// there is no Node that can be a page.
    pub(crate) fn start(
        script: &Path,
        pages: &[(u16, Vec<usize>)],
        token: Option<&str>,
        counters: &Arc<Counters>,
    ) -> Option<Self> {
        let node = ["--experimental-websocket", "--no-warnings"];
        let probe = ["-e", "new WebSocket('ws://127.0.0.1:1/').onerror = () => {}"];
        if !Command::new("node").args(node).args(probe).status().is_ok_and(|status| status.success()) {
            return None;
        }
        let described = pages.iter().map(|(port, topics)| {
            let names: Vec<_> = topics.iter().map(|topic| topic_name(*topic)).collect();
            json!({"url": format!("ws://127.0.0.1:{port}/"), "topics": names, "token": token})
        });
        let described = Value::Array(described.collect()).to_string();
        let mut command = Command::new("node");
        command.args(node).arg(script).arg(described).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let empty = |(_, topics): &(u16, Vec<usize>)| topics.iter().map(|topic| (*topic, Taken::default())).collect();
        let taken: Arc<Mutex<Outcome>> = Arc::new(Mutex::new(Ok(pages.iter().map(empty).collect())));
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (into, counters) = (Arc::clone(&taken), Arc::clone(counters));
        let reader = thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut taken = into.lock().unwrap();
                if let Ok(pages) = &mut *taken
                    && let Err(why) = take(pages, &line, &counters)
                {
                    *taken = Err(why);
                }
            }
        });
        Some(Self { child, taken, reader: Some(reader) })
    }

    /// What each has got, or what was wrong.
    pub(crate) fn taken(&self) -> Outcome {
        self.taken.lock().unwrap().clone()
    }

    /// The positions that they have reached.
    pub(crate) fn positions(&self) -> Result<Vec<(usize, Option<Position>)>, String> {
        let taken = self.taken.lock().unwrap();
        let taken = taken.as_ref().map_err(Clone::clone)?;
        Ok(taken.iter().flatten().map(|(topic, taken)| (*topic, taken.position)).collect())
    }

    /// Nothing in it runs for a while.
    pub(crate) fn suspend(&self, time: Duration) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).expect("it is ours");
        thread::sleep(time);
        kill_process(pid, Signal::CONT).expect("it is ours");
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Takes a line that the pages have printed.
fn take(pages: &mut [BTreeMap<usize, Taken>], line: &str, counters: &Counters) -> Result<(), String> {
    let object: Value = serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}"))?;
    let unexpected = || format!("a page says {line}");
    if object["open"] == true {
        counters.connections.fetch_add(1, SeqCst);
        return Ok(());
    }
    if let Some(error) = object["error"].as_str() {
        // A server that ends can take nothing more, and it is asked again.
        return if error == "unavailable" { Ok(()) } else { Err(unexpected()) };
    }
    let page = object["page"].as_u64().and_then(|page| pages.get_mut(page as usize)).ok_or_else(unexpected)?;
    let topic = object["topic"].as_str().and_then(topic_number).ok_or_else(unexpected)?;
    let taken = page.get_mut(&topic).ok_or_else(unexpected)?;
    let position = Position::parse(object["position"].as_str().ok_or_else(unexpected)?)?;
    let event = if object["began"] == true {
        Event::Began(position)
    } else if object["lost"] == true {
        Event::Lost(position)
    } else {
        Event::Message(position, number_of(topic, object["text"].as_str().ok_or_else(unexpected)?))
    };
    taken.note(event, None);
    Ok(())
}
