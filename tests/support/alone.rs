//! Tests that look at their whole process: they run in one of their own, so that nobody else's threads are counted.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs, thread};

use super::{CEILING, ms};

const MARK: &str = "HEARTWIRE_TEST_ALONE";

/// Runs the test of this name once more in a process of its own, and says whether this is that process:
/// `if !alone("name") { return; }`.
pub(crate) fn alone(test: &str) -> bool {
    env::var_os(MARK).is_some() || {
        let program = env::current_exe().expect("a test has a program");
        run(Command::new(program), test);
        false
    }
}

/// Like [`alone`], in a process that may have only so many open files.
#[cfg(unix)]
pub(crate) fn alone_with_files(test: &str, files: u32) -> bool {
    env::var_os(MARK).is_some() || {
        let program = env::current_exe().expect("a test has a program");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\"")).arg(program);
        run(shell, test);
        false
    }
}

fn run(mut command: Command, test: &str) {
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(MARK, "1");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let errors = thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let output = thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.read_to_string(&mut text);
        text
    });
    let deadline = Instant::now() + 2 * CEILING;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break Some(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(ms(5));
    };
    let (output, errors) = (output.join().unwrap_or_default(), errors.join().unwrap_or_default());
    print!("{output}");
    assert!(status.is_some_and(|status| status.success()), "{test}, alone: {status:?}\n{output}\n{errors}");
    assert!(output.contains("1 passed"), "there is no test {test}:\n{output}");
}

/// How many threads of this process have a name that begins so. Linux tells 15 bytes of it.
#[cfg(target_os = "linux")]
pub(crate) fn threads_named(prefix: &str) -> usize {
    let prefix = &prefix[..prefix.len().min(15)];
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    // A thread that has just ended has no name any more.
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).count()
}

/// How many sockets this process has open.
#[cfg(target_os = "linux")]
pub(crate) fn open_sockets() -> usize {
    let files = fs::read_dir("/proc/self/fd").expect("Linux");
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}
