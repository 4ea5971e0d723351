//! Running the server: log, limits, signals, and the two modes.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use heartwire::{Accept, Connection, Error, Handle, Request, Response, Server};
use simplelog::{
    ColorChoice, CombinedLogger, ConfigBuilder, LevelPadding, SharedLogger, TermLogger, TerminalMode, WriteLogger,
};
use time::macros::format_description;

use crate::cli::{Mode, ServeOptions};
use crate::log_thread;

/// Serves until a signal, and gives the exit status: 0 after an orderly end, 1 if it could not start.
pub(crate) fn run(options: ServeOptions) -> ExitCode {
    let result = try_run(&options);
    log::logger().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(options: &ServeOptions) -> Result<(), String> {
    start_log(options)?;
    let server = Server::bind(&options.address)
        .map_err(|error| format!("cannot listen on {}: {error}", options.address))?
        .heartbeat(options.heartbeat())
        .max_connections(options.max_connections)
        .max_message_size(options.max_message_size)
        .queue_size(options.queue_size)
        .read_buffer_size(options.read_buffer_size)
        .handshake_timeout(options.handshake_timeout)
        .close_timeout(options.close_timeout)
        .on_request(answer_health_checks);
    let server = allow_origins(server, options.allow_origin.clone());
    let handle = server.handle();
    shut_down_on_signals(handle.clone())?;
    announce(&handle, options);
    raise_file_limit(options.max_connections);

    let served = match options.mode {
        Mode::Echo => server.serve(echo),
        Mode::Broadcast => {
            let handle = handle.clone();
            server.serve(move |conn| broadcast(&handle, conn))
        }
    };
    served.map_err(|error| error.to_string())?;
    print_summary(&handle, options);
    Ok(())
}

fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.feed(message)?;
    }
}

fn broadcast(handle: &Handle, conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        handle.broadcast_except(conn.id(), message);
    }
}

fn answer_health_checks(request: &Request) -> Option<Response> {
    let is_check = request.path() == "/healthz" && matches!(request.method(), "GET" | "HEAD");
    is_check.then(|| Response::new(200).header("Cache-Control", "no-store").text("ok\n"))
}

/// Only browsers send an Origin, and only they carry their users' rights to where a page sends them: other clients
/// are not concerned.
fn allow_origins(server: Server, allowed: Vec<String>) -> Server {
    if allowed.is_empty() {
        return server;
    }
    server.on_handshake(move |request| match request.header("Origin") {
        Some(origin) if !allowed.contains(&origin.to_ascii_lowercase()) => {
            Err(Response::new(403).text("this origin is not allowed\n"))
        }
        _ => Ok(Accept::new()),
    })
}

fn start_log(options: &ServeOptions) -> Result<(), String> {
    let level = options.log_level();
    let config = ConfigBuilder::new()
        .set_time_format_custom(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .set_level_padding(LevelPadding::Right)
        .set_thread_level(log::LevelFilter::Off)
        .set_target_level(log::LevelFilter::Debug)
        .build();
    // Standard output is for the program's own few lines.
    let color = if io::stderr().is_terminal() { ColorChoice::Auto } else { ColorChoice::Never };
    let terminal = TermLogger::new(level, config.clone(), TerminalMode::Stderr, color);
    let mut loggers: Vec<Box<dyn SharedLogger>> = vec![terminal];
    if let Some(path) = &options.log_file {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| format!("cannot write the log file {}: {error}", path.display()))?;
        loggers.push(WriteLogger::new(level, config, file));
    }
    log_thread::start(level, CombinedLogger::new(loggers))
}

/// The first signal shuts down, the second one ends at once.
fn shut_down_on_signals(handle: Handle) -> Result<(), String> {
    /// What shells give to a process that was ended by SIGINT.
    const INTERRUPTED: i32 = 130;
    let is_second = AtomicBool::new(false);
    let on_signal = move || {
        if is_second.swap(true, SeqCst) {
            std::process::exit(INTERRUPTED);
        }
        handle.shutdown();
        log::info!("shutting down; another signal ends at once");
    };
    ctrlc::set_handler(on_signal).map_err(|error| format!("cannot handle signals: {error}"))
}

fn announce(handle: &Handle, options: &ServeOptions) {
    say(options, &format!("listening on ws://{} ({})", handle.local_addr(), options.heartbeat_in_words()));
}

/// Every connection takes a file descriptor; a few more are in use anyway.
fn raise_file_limit(max_connections: usize) {
    const OTHERS: u64 = 32;
    let needed = max_connections as u64 + OTHERS;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < needed => log::warn!(
            "the limit of open files is {limit}, and --max-connections {max_connections} needs {needed}: \
             clients beyond it will have to wait (see ulimit -n)"
        ),
        Ok(_) => {}
        Err(error) => log::warn!("cannot raise the limit of open files: {error}"),
    }
}

fn print_summary(handle: &Handle, options: &ServeOptions) {
    let stats = handle.stats();
    let causes: Vec<String> = stats.closed.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
    let summary = format!(
        "summary: opened {}, closed {}{causes}, Pongs missed {}; {}",
        stats.opened,
        stats.closed_total(),
        stats.missed,
        stats.traffic
    );
    say(options, &summary);
}

/// A line on standard output, and in the log file. That standard output may have been closed is no reason to stop
/// serving.
fn say(options: &ServeOptions, line: &str) {
    if options.log_file.is_some() {
        log::info!("{line}");
    }
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
