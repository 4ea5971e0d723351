//! Tests that need a process of their own: they count its threads, sockets or memory, set its logger, or change what
//! its signals do. All other tests run beside one another in one process.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, thread};

use super::{CEILING, ms};

const MARK: &str = "HEARTWIRE_TEST_ALONE";

/// Runs the test that it stands in once more, in a process of its own, and says whether this is that process:
/// `if !alone!() { return; }`. With a number, that process may have only so many open files.
macro_rules! alone {
    () => {
        alone!(@ None)
    };
    ($files:literal) => {
        alone!(@ Some($files))
    };
    (@ $files:expr) => {{
        // Of all functions in sight, the one that is sure to be inside the test.
        fn here() {}
        $crate::support::alone::run_alone(std::any::type_name_of_val(&here), $files)
    }};
}
pub(crate) use alone;

/// What [`alone!`] is made of. `function` is the path of a function inside the test: `crate::module::test::function`.
pub(crate) fn run_alone(function: &str, files: Option<u32>) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    let (test, _) = function.rsplit_once("::").expect("it is inside the test");
    let (_, test) = test.split_once("::").expect("a path begins with the crate");
    let program = env::current_exe().expect("a test has a program");
    run(limited(program, files), test);
    false
}

/// The command that starts this program with a limit of open files, if there is to be one.
fn limited(program: PathBuf, files: Option<u32>) -> Command {
    let Some(files) = files else { return Command::new(program) };
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\"")).arg(program);
    shell
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
