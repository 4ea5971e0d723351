//! The threads that ask the authorization service. Whoever wants to know something waits for one of them until a
//! deadline of its own: the stack of a connection's thread stays shallow, and no service can hold it longer.
//!
//! Invariants:
//! - There are never more requests under way than are allowed, and so many threads at most. They end when there is
//!   nothing to do.
//! - A question that nobody waits for any more is not asked.
//! - Nobody calls the logger with a lock. These threads do, and whoever waits for one of them has been answered before.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel as channel;

use super::answer::Outcome;
use super::cache::Cache;
use super::question::Question;
use super::transport::Transport;
use crate::foreign;
use crate::logging::Log;

/// The service, as its clones share it. Dropping the last one cuts the requests that are under way.
pub(super) struct Crew {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    /// Protects what is known. Held for moments.
    cache: Mutex<Cache>,
    /// Protects the line of questions and the count of threads. Held for moments.
    line: Mutex<Line>,
    /// Signalled when there is a job, and at the end.
    changed: Condvar,
    /// Protects whether the service answers. Held for moments.
    health: Mutex<Health>,
    /// A log of its own: the service may be older than a server, and belong to several.
    log: Log,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    is_over: bool,
}

struct Job {
    question: Question,
    deadline: Instant,
    may_be_known: bool,
    /// Has room for the reply. `None`: there is no answer.
    reply: channel::Sender<Option<Outcome>>,
}

impl Crew {
    /// How long a thread waits for another job before it ends.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// The resolver of names needs less.
    const STACK: usize = 512 * 1024;

    pub(super) fn new(transport: Transport) -> Self {
        Self {
            shared: Arc::new(Shared {
                transport,
                cache: Mutex::default(),
                line: Mutex::default(),
                changed: Condvar::new(),
                health: Mutex::default(),
                log: Log::default(),
            }),
        }
    }

    /// Asks the service, unless the answer is known and may be used. `None` if there is none before the deadline.
    pub(super) fn ask(
        &self,
        question: &Question,
        deadline: Instant,
        most_threads: usize,
        may_be_known: bool,
    ) -> Option<Outcome> {
        if may_be_known && let Some(known) = self.shared.lock_cache().find(question, Instant::now()) {
            return Some(known);
        }
        let (reply, answered) = channel::bounded(1);
        let needs_thread = {
            let mut line = self.shared.lock_line();
            line.jobs.push_back(Job { question: question.clone(), deadline, may_be_known, reply });
            let needs_thread = line.jobs.len() > line.idle && line.threads < most_threads;
            line.threads += usize::from(needs_thread);
            needs_thread
        };
        if needs_thread {
            self.start_thread();
        } else {
            self.shared.changed.notify_one();
        }
        // In vain, if nobody comes to it in time: whoever does will tell the log.
        answered.recv_deadline(deadline).ok().flatten()
    }

    fn start_thread(&self) {
        let shared = Arc::clone(&self.shared);
        let builder = thread::Builder::new().name("heartwire-auth".to_owned()).stack_size(Self::STACK);
        let run = move || {
            // Its place is given up however it ends, for whoever comes next starts another.
            if let Err(message) = foreign::call(|| shared.work()) {
                shared.lock_line().threads -= 1;
                shared.log.error(format_args!("a thread of the authorization service panicked: {message}"));
            }
        };
        if let Err(error) = builder.spawn(run) {
            let mut line = self.shared.lock_line();
            line.threads -= 1;
            // Nobody else would come for them.
            let abandoned = if line.threads == 0 { std::mem::take(&mut line.jobs) } else { VecDeque::new() };
            drop(line);
            drop(abandoned);
            self.shared.note_failure(&format!("no thread can be started to ask it: {error}"));
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.lock_line().is_over = true;
        self.shared.changed.notify_all();
        self.shared.transport.cut();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            let known = self.lock_cache().find(&job.question, Instant::now()).filter(|_| job.may_be_known);
            if known.is_some() {
                let _ = job.reply.send(known);
                continue;
            }
            if Instant::now() >= job.deadline {
                self.note_failure("it is too slow for so many questions");
                continue;
            }
            let answered = self.transport.ask(&job.question, job.deadline);
            let outcome = answered.and_then(|received| Outcome::read(&received, SystemTime::now(), Instant::now()));
            match outcome {
                Ok((outcome, time)) => {
                    self.lock_cache().keep(&job.question, &outcome, time, Instant::now());
                    let _ = job.reply.send(Some(outcome));
                    self.note_success();
                }
                Err(why) => {
                    let _ = job.reply.send(None);
                    self.note_failure(&why);
                }
            }
        }
    }

    /// Waits for a job. `None` if the thread is to end, which then no longer counts.
    fn next_job(&self) -> Option<Job> {
        let until = Instant::now() + Crew::PATIENCE;
        let mut line = self.lock_line();
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            match line.jobs.pop_front().filter(|_| !line.is_over) {
                Some(job) => return Some(job),
                None if line.is_over || wait.is_zero() => {
                    line.threads -= 1;
                    return None;
                }
                None => {}
            }
            line.idle += 1;
            line = self.changed.wait_timeout(line, wait).unwrap_or_else(PoisonError::into_inner).0;
            line.idle -= 1;
        }
    }

    fn note_failure(&self, why: &str) {
        // At the end all requests are cut.
        if self.lock_line().is_over {
            return;
        }
        let is_news = lock(&self.health).fail(Instant::now());
        if is_news {
            self.log.error(format_args!(
                "the authorization service gives no answer: {why}; clients are refused until it does"
            ));
        }
    }

    fn note_success(&self) {
        let refused = lock(&self.health).succeed();
        if let Some(refused) = refused {
            self.log
                .info(format_args!("the authorization service answers again; questions without an answer: {refused}"));
        }
    }

    fn lock_cache(&self) -> MutexGuard<'_, Cache> {
        lock(&self.cache)
    }

    fn lock_line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the service answers, as far as the log is concerned.
#[derive(Debug, Default)]
struct Health {
    /// How many questions had no answer since it was last all right.
    failed: u64,
    /// When a failure was last logged.
    told_at: Option<Instant>,
    /// Whether it was logged that it fails, and not yet that it answers again.
    is_told: bool,
}

impl Health {
    /// One that answers now and then is told of no more often.
    const PAUSE: Duration = Duration::from_secs(60);

    /// A question had no answer. Whether that is to be logged.
    fn fail(&mut self, now: Instant) -> bool {
        self.failed += 1;
        let was_told_lately = self.told_at.is_some_and(|at| now.saturating_duration_since(at) < Self::PAUSE);
        let is_news = !self.is_told && !was_told_lately;
        if is_news {
            self.told_at = Some(now);
            self.is_told = true;
        }
        is_news
    }

    /// A question had an answer. How many had none, if that is to be logged.
    fn succeed(&mut self) -> Option<u64> {
        let failed = std::mem::take(&mut self.failed);
        std::mem::take(&mut self.is_told).then_some(failed)
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_until_it_is_over_and_not_each_time_of_a_service_that_comes_and_goes() {
        let (mut health, now, second) = (Health::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!((health.fail(now), health.fail(now), health.fail(now + 90 * second)), (true, false, false));
        assert_eq!((health.succeed(), health.succeed()), (Some(3), None));
        assert!(!health.fail(now + 59 * second));
        assert_eq!(health.succeed(), None);
        assert!(health.fail(now + 61 * second));
    }
}
