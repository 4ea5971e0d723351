//! A line of waiting threads, in the order in which they came.

use std::collections::VecDeque;

/// The threads that wait for something that only one of them may take.
#[derive(Debug, Default)]
pub(crate) struct WaitingLine {
    /// Their tickets, in the order of their calls.
    tickets: VecDeque<u64>,
    last_ticket: u64,
}

impl WaitingLine {
    pub(crate) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    #[cfg(all(test, not(shuttle)))]
    pub(crate) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Takes a ticket at the end of the line.
    pub(crate) fn join(&mut self) -> u64 {
        self.last_ticket += 1;
        self.tickets.push_back(self.last_ticket);
        self.last_ticket
    }

    pub(crate) fn is_first(&self, ticket: u64) -> bool {
        self.tickets.front() == Some(&ticket)
    }

    /// Returns the ticket. Returns whether another one became the first by that.
    pub(crate) fn leave(&mut self, ticket: u64) -> bool {
        let was_first = self.is_first(ticket);
        self.tickets.retain(|other| *other != ticket);
        was_first && !self.tickets.is_empty()
    }
}
