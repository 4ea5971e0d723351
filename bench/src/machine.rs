//! The machine that is measured on: what it is, and how long it takes to wake a thread.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

use crate::load::new_histogram;

/// What is known of it. What the system does not tell is missing.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The ones that this process may use.
    processors: Vec<usize>,
    model: Option<String>,
    kernel: Option<String>,
    virtual_by: Vec<String>,
    /// Driver and governor of idle processors.
    cpuidle: Option<(String, String)>,
    wake_up: Option<WakeUp>,
    /// Of the last minute, before all measurements: on a quiet machine it is near 0.
    load_average: Option<String>,
}

/// One byte there and back between two threads that block in their reads, over TCP on loopback: median and p99.
#[derive(Debug)]
struct WakeUp {
    /// One after the other, so that a processor is never idle for long.
    brisk: [Duration; 2],
    /// After a millisecond in which nothing happens: the processor of the other thread sleeps.
    rested: [Duration; 2],
    /// The same while a thread of the lowest priority spins on each processor, so that none sleeps.
    awake: [Duration; 2],
}

impl Machine {
    /// Looks, and measures for some 200 ms, in which nothing else should happen.
    pub(crate) fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpuidle = |name| first_line(&format!("/sys/devices/system/cpu/cpuidle/current_{name}"));
        let allowed = sched_getaffinity(None).ok();
        let is_allowed = |number: &usize| allowed.as_ref().is_some_and(|allowed| allowed.is_set(*number));
        let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(is_allowed).collect();
        let load_average = first_line("/proc/loadavg").and_then(|line| line.split(' ').next().map(str::to_owned));
        let wake_up = WakeUp::measure(&processors).ok();
        Self {
            processors,
            model: value(&cpuinfo, "model name").map(str::to_owned),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            virtual_by: virtual_by(&cpuinfo),
            // The governor is called so by old kernels.
            cpuidle: cpuidle("driver").zip(cpuidle("governor").or_else(|| cpuidle("governor_ro"))),
            wake_up,
            load_average,
        }
    }

    pub(crate) fn json(&self) -> Value {
        let micros = |[p50, p99]: [Duration; 2]| json!({ "p50": micros(p50), "p99": micros(p99) });
        json!({
            "cores": self.processors.len(),
            "processor": self.model,
            "kernel": self.kernel,
            "virtual": self.virtual_by,
            "idle_driver": self.cpuidle.as_ref().map(|(driver, _)| driver),
            "idle_governor": self.cpuidle.as_ref().map(|(_, governor)| governor),
            "round_trip_us": self.wake_up.as_ref().map(|wake_up| micros(wake_up.brisk)),
            "round_trip_rested_us": self.wake_up.as_ref().map(|wake_up| micros(wake_up.rested)),
            "round_trip_rested_kept_awake_us": self.wake_up.as_ref().map(|wake_up| micros(wake_up.awake)),
            "load_average_at_the_beginning": self.load_average,
            "load_average_at_the_end": first_line("/proc/loadavg"),
        })
    }

    /// Of the last minute, before all measurements.
    pub(crate) fn load_average(&self) -> Option<&str> {
        self.load_average.as_deref()
    }

    /// In one line.
    pub(crate) fn name(&self) -> String {
        let plural = if self.processors.len() == 1 { "" } else { "s" };
        let model = self.model.as_deref().unwrap_or("of a model that is not told");
        let kernel = self.kernel.as_deref().unwrap_or("?");
        let kind = match self.virtual_by.as_slice() {
            [] => "no sign of a virtual machine".into(),
            signs => format!("virtual ({})", signs.join(", ")),
        };
        format!("{} processor{plural} {model}, {kind}, Linux {kernel}", self.processors.len())
    }
}

/// Several lines.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, load average {}", self.name(), self.load_average.as_deref().unwrap_or("?"))?;
        if let Some((driver, governor)) = &self.cpuidle {
            writeln!(f, "idle processors: driver {driver}, governor {governor}")?;
        }
        let Some(WakeUp { brisk, rested, awake }) = &self.wake_up else { return Ok(()) };
        writeln!(f, "one byte there and back between two blocked threads, TCP on loopback:")?;
        let line = |what: &str, [p50, p99]: &[Duration; 2]| {
            format!("  {what:<42}  p50 {:5.1} µs  p99 {:5.1} µs", micros(*p50), micros(*p99))
        };
        writeln!(f, "{}", line("one after the other", brisk))?;
        writeln!(f, "{}", line("after 1 ms of rest", rested))?;
        let waking = match rested[0].checked_sub(awake[0]) {
            Some(waking) if !waking.is_zero() => format!("so waking takes {:.1} µs", micros(waking)),
            _ => "no waking is seen".into(),
        };
        writeln!(f, "{}  ({waking})", line("the same, processors kept from sleeping", awake))
    }
}

fn micros(time: Duration) -> f64 {
    (time.as_nanos() as f64 / 100.0).round() / 10.0
}

fn first_line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().next().map(str::to_owned)
}

/// A field of /proc/cpuinfo, of the first processor.
fn value<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|found| found.1.trim())
}

/// What tells that this is a virtual machine.
fn virtual_by(cpuinfo: &str) -> Vec<String> {
    let has_flag = value(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let hypervisor = first_line("/sys/hypervisor/type").map(|kind| format!("/sys/hypervisor: {kind}"));
    // Physical machines have a product name too: it is a sign only beside another.
    let product = || first_line("/sys/class/dmi/id/product_name").map(|name| format!("product {name}"));
    let signs: Vec<String> = has_flag.then(|| "hypervisor flag".into()).into_iter().chain(hypervisor).collect();
    let product = if signs.is_empty() { None } else { product() };
    signs.into_iter().chain(product).collect()
}

impl WakeUp {
    const SPAN: Duration = Duration::from_millis(60);
    const REST: Duration = Duration::from_millis(1);

    fn measure(processors: &[usize]) -> io::Result<Self> {
        let brisk = round_trips(Duration::ZERO, Self::SPAN)?;
        let rested = round_trips(Self::REST, Self::SPAN)?;
        let is_over = AtomicBool::new(false);
        let awake = thread::scope(|scope| {
            for &processor in processors {
                let is_over = &is_over;
                scope.spawn(move || spin(processor, is_over));
            }
            let awake = round_trips(Self::REST, Self::SPAN);
            is_over.store(true, Relaxed);
            awake
        })?;
        let percentiles =
            |times: Histogram<u64>| [0.5, 0.99].map(|quantile| Duration::from_nanos(times.value_at_quantile(quantile)));
        Ok(Self { brisk: percentiles(brisk), rested: percentiles(rested), awake: percentiles(awake) })
    }
}

/// Keeps a processor from idling, and gives way to every other thread.
fn spin(processor: usize, is_over: &AtomicBool) {
    let mut only = CpuSet::new();
    only.set(processor);
    // Linux sets both for this thread alone. If one is refused it must not spin: it would be in the way.
    let is_set = sched_setaffinity(None, &only).is_ok() && rustix::process::setpriority_process(None, 19).is_ok();
    while is_set && !is_over.load(Relaxed) {
        // No pause instruction: a hypervisor may take that for idling.
    }
}

/// Nanoseconds of each round trip between two threads, with a rest before each. The first ones are not counted.
fn round_trips(rest: Duration, span: Duration) -> io::Result<Histogram<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
        });
        let mut times = new_histogram();
        let from = Instant::now() + span / 6;
        loop {
            if !rest.is_zero() {
                thread::sleep(rest);
            }
            let began = Instant::now();
            if began >= from + span && !times.is_empty() {
                // Ends the other thread.
                drop(near);
                return Ok(times);
            }
            near.write_all(&[1])?;
            near.read_exact(&mut [0])?;
            if began >= from {
                times.saturating_record(began.elapsed().as_nanos() as u64);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_first_processor_are_found() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some: CPU\nflags\t\t: fpu hypervisor\n\nmodel name\t: Other\n";
        assert_eq!(value(cpuinfo, "model name"), Some("Some: CPU"));
        assert_eq!(value(cpuinfo, "stepping"), None);
        assert_eq!(virtual_by(cpuinfo)[0], "hypervisor flag");
        assert!(!virtual_by("flags\t: fpu hypervisors\n").contains(&"hypervisor flag".to_owned()));
    }

    #[test]
    fn wake_ups_are_measured() {
        let times = round_trips(Duration::ZERO, Duration::from_millis(5)).unwrap();
        assert!(times.min() > 0);
    }
}
