//! The commands of the pages, run as they stand there.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::{Page, pages};
use crate::support::process::Process;
use crate::support::{SLACK, live, ms};

/// What a page shows of a command: the example, its argument, and what it prints.
struct Shown {
    example: String,
    argument: Option<String>,
    output: String,
}

fn shown(page: &Page) -> Vec<Shown> {
    let mut all = Vec::new();
    for block in page.blocks("console") {
        let Some(rest) = block.strip_prefix("$ cargo run -q --example ") else { continue };
        let (command, output) = rest.split_once('\n').unwrap_or((rest, ""));
        let (example, argument) = match command.split_once(' ') {
            Some((example, argument)) => (example, Some(argument.to_owned())),
            None => (command, None),
        };
        all.push(Shown { example: example.to_owned(), argument, output: output.to_owned() });
    }
    all
}

impl Shown {
    fn start(&self) -> Process {
        let program = Path::new(env!("CARGO_BIN_EXE_heartwire"));
        let example = program.with_file_name("examples").join(&self.example);
        assert!(example.exists(), "{} is not built: cargo build --examples", example.display());
        let mut command = match without_privileges() {
            Some(mut command) => {
                command.arg(example);
                command
            }
            None => Command::new(example),
        };
        Process::start(command.args(&self.argument).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }
}

/// The lesson promises that no root is needed, and tests often run as root: what takes its capabilities from a command.
/// `None` if that cannot be done, as for users who have none.
fn without_privileges() -> Option<Command> {
    let dropped = || {
        let mut command = Command::new("setpriv");
        command.arg("--bounding-set=-all");
        command
    };
    let can = dropped().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    can.then(dropped)
}

/// The lines of an output without what may differ from run to run: times, the system's settings, the width of columns,
/// and the order of what happens to different connections.
fn normalised(output: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in output.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let words = words.iter().enumerate().map(|(at, word)| normalised_word(word, words.get(at + 1)));
        lines.push(words.collect::<Vec<_>>().join(" "));
    }
    for connections in lines.chunk_by_mut(|a, b| connection(a).is_some() && connection(b).is_some()) {
        connections.sort_by_key(|line| connection(line));
    }
    lines
}

fn normalised_word<'a>(word: &'a str, next: Option<&&str>) -> &'a str {
    let is_number = |text: &str| text.parse::<f64>().is_ok();
    let bare = word.trim_end_matches([',', ';', '.', ':', ')']);
    let counts = next.is_some_and(|next| next.starts_with("retransmissions") || next.starts_with("probes"));
    let is_time =
        bare.trim_end_matches('s').trim_end_matches('m') != bare && is_number(bare.trim_end_matches(['m', 's']));
    if is_time || is_number(bare) && (bare.contains('.') || counts) { "#" } else { word }
}

/// The connection that a line of a supervisor is about, such as 2 for `# s server #2 opened`.
fn connection(line: &str) -> Option<u32> {
    line.strip_prefix("# s server #")?.split(' ').next()?.parse().ok()
}

/// The times in the lines that have this text, in seconds: the last number that is followed by `s`.
fn times(output: &str, text: &str) -> Vec<f64> {
    let lines = output.lines().filter(|line| line.contains(text));
    let time = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.windows(2).filter(|pair| pair[1] == "s").find_map(|pair| pair[0].parse().ok())
    };
    lines.map(|line| time(line).unwrap_or_else(|| panic!("no time in {line:?}"))).collect()
}

#[test]
fn every_command_prints_what_its_page_shows() {
    let shown: Vec<Shown> = pages().iter().flat_map(shown).collect();
    let commands: BTreeSet<_> = shown.iter().map(|shown| (&*shown.example, shown.argument.as_deref())).collect();
    let steps = (1..=4).map(|step| (format!("lesson-{step}"), None));
    let trials = ["trickle", "blocked-write", "busy-handler", "suspend"];
    let trials = [5, 6].into_iter().flat_map(|step| trials.map(|trial| (format!("lesson-{step}"), Some(trial))));
    let wanted: Vec<_> = steps.chain(trials).collect();
    assert_eq!(commands, wanted.iter().map(|(example, argument)| (&**example, *argument)).collect());

    // They mostly wait, so all run at a time. Whether their living peers are in time depends on the machine.
    live(ms(200), |pulse| {
        let started: Vec<_> = shown.iter().map(Shown::start).collect();
        let ended: Vec<_> = started.into_iter().map(|process| thread::spawn(move || output_of(process))).collect();
        while !ended.iter().all(thread::JoinHandle::is_finished) {
            pulse.beat();
            thread::sleep(ms(10));
        }
        for (shown, ended) in shown.iter().zip(ended) {
            let output = ended.join().expect("its output");
            let command = format!("{} {}", shown.example, shown.argument.as_deref().unwrap_or_default());
            assert_eq!(normalised(&output), normalised(&shown.output), "{command}:\n{output}");
            check_times(&shown.example, &output);
        }
    });
}

fn output_of(mut process: Process) -> String {
    let status = process.wait();
    assert!(status.success(), "{status}: {:#?}", process.stderr.lines());
    process.stdout.lines().join("\n")
}

/// No deadline comes early, and none is later than a busy machine makes it.
fn check_times(example: &str, output: &str) {
    let slack = SLACK.as_secs_f64();
    match example {
        "lesson-3" => {
            for time in times(output, "after its last byte") {
                assert!((0.5..1.5 + slack).contains(&time), "{output}");
            }
        }
        "lesson-4" => {
            let lost = times(output, "heartbeat lost");
            assert!(lost.len() == 2 && lost.iter().all(|time| (2.5..2.5 + slack).contains(time)), "{output}");
        }
        _ => {}
    }
}

#[test]
fn an_output_that_differs_in_more_than_its_times_is_found() {
    let page = " 2.5 s  server  #2 missed Pong 3 of 3\n 2.5 s  server  #3 opened\n\nafter 15 retransmissions: 924.6 s";
    let same = "12.5 s  server  #3 opened\n 2.6 s  server  #2 missed Pong 3 of 3\nafter 8 retransmissions: 102.2 s\n";
    assert_eq!(normalised(page), normalised(same));
    for other in [page.replace("3 of", "2 of"), page.replace("server", "peer"), page.replace("#3", "#2")] {
        assert_ne!(normalised(page), normalised(&other), "{other}");
    }
    assert_eq!(normalised("took nothing for 1.5s)"), normalised("took nothing for 1.6s)"));
    assert_eq!(times(page, "missed"), [2.5]);
}

#[test]
fn a_trial_that_does_not_exist_is_an_error_that_names_those_that_do() {
    let unknown = Shown { example: "lesson-5".into(), argument: Some("drop".into()), output: String::new() };
    let mut process = unknown.start();
    assert_eq!(process.wait().code(), Some(1));
    process.stderr.line_with(&["no trial drop", "trickle, blocked-write, busy-handler and suspend"]);
}
