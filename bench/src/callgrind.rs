//! A server under callgrind, which counts its instructions in user mode.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::Server;
use crate::server::{Kind, ServeOptions};

/// What a server did in its whole life.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) total: u64,
    /// By function, if that was wanted. What was inlined counts for its caller.
    pub(crate) functions: BTreeMap<String, u64>,
}

pub(crate) fn is_available() -> bool {
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Starts a server, lets `exchange` talk to it, and counts when it has ended.
pub(crate) fn count(
    kind: Kind,
    serve: &ServeOptions,
    by_function: bool,
    exchange: impl FnOnce(&Server) -> io::Result<()>,
) -> io::Result<Counted> {
    let file = |suffix: &str| -> PathBuf {
        std::env::temp_dir().join(format!("heartwire-bench-{}.{suffix}", std::process::id()))
    };
    let (log, profile) = (file("callgrind-log"), if by_function { file("callgrind") } else { "/dev/null".into() });
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", profile.display()));
    command.arg(format!("--log-file={}", log.display())).arg(std::env::current_exe()?);
    command.args(serve.arguments(kind));
    let server = Server::spawn(kind, serve, &mut command)?;
    exchange(&server)?;
    server.process.finish()?;
    let text = fs::read_to_string(&log)?;
    fs::remove_file(&log)?;
    let collected = text.lines().find_map(|line| line.split_once("Collected : ").map(|(_, count)| count.trim()));
    let total = collected.and_then(|count| count.split(' ').next()?.parse().ok());
    let total = total.ok_or_else(|| io::Error::other(format!("callgrind said: {text}")))?;
    let functions = if by_function { annotate(&profile)? } else { BTreeMap::new() };
    if by_function {
        fs::remove_file(&profile)?;
    }
    Ok(Counted { total, functions })
}

fn annotate(profile: &Path) -> io::Result<BTreeMap<String, u64>> {
    let output = Command::new("callgrind_annotate").args(["--threshold=100", "--auto=no"]).arg(profile).output()?;
    let functions = parse(&String::from_utf8_lossy(&output.stdout));
    if functions.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("callgrind_annotate told no functions: {said}")));
    }
    Ok(functions)
}

/// Lines like `104,551 (11.12%)  ./malloc/malloc.c:_int_malloc [/usr/lib/libc.so.6]`. A function has a line for each
/// file whose code was inlined into it.
fn parse(annotated: &str) -> BTreeMap<String, u64> {
    let mut functions = BTreeMap::new();
    for line in annotated.lines().map(str::trim) {
        let Some((count, rest)) = line.split_once(' ') else { continue };
        let Ok(count) = count.replace(',', "").parse::<u64>() else { continue };
        let place = match rest.split_once("%)") {
            Some((_, place)) => place,
            None => rest,
        };
        // The totals have no file.
        let Some((_, function)) = place.split_once(':') else { continue };
        let name = function.rsplit_once(" [").map_or(function, |(name, _)| name);
        *functions.entry(name.to_owned()).or_default() += count;
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_the_sum_of_its_lines() {
        let annotated = "\
            Events recorded:  Ir\n\
            Thresholds:       100\n\
            940,113 (100.0%)  PROGRAM TOTALS\n\
            Ir                file:function\n\
             58,084 ( 6.18%)  ./elf/dl-machine.h:relocate\n\
             29,920 ( 3.18%)  ???:<a::Arg as core::clone::Clone>::clone [/target/bench]\n\
              1,000  ./elf/do-rel.h:relocate [/lib/ld.so]\n";
        let expected = [("<a::Arg as core::clone::Clone>::clone", 29_920), ("relocate", 59_084)];
        assert_eq!(parse(annotated), expected.map(|(name, count)| (name.to_owned(), count)).into());
    }
}
