//! Every event in every phase, by a table; and random sequences of events, in which no phase goes back.

use std::io;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

/// What can happen to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// We close, with a Close frame or without one.
    Close,
    GiveUp,
    /// The peer ends its side.
    PeerClose,
    Violation,
    PeerLost,
    Answer,
    WriteFailed,
    End,
}

use Event::*;

const EVENTS: [Event; 8] = [Close, GiveUp, PeerClose, Violation, PeerLost, Answer, WriteFailed, End];

fn ours() -> CloseReason {
    CloseReason::shutdown()
}

fn theirs() -> CloseReason {
    CloseReason::Peer { code: Some(CloseCode::NORMAL), reason: "done".into() }
}

fn violation() -> CloseReason {
    CloseReason::InvalidUtf8
}

fn broken() -> CloseReason {
    CloseReason::io(&io::ErrorKind::BrokenPipe.into())
}

/// The reason of an end whose cause is unknown.
fn unknown() -> CloseReason {
    CloseReason::HandlerFailed("unknown".into())
}

/// The Close frames: of a shutdown, of the answer to the peer's, and of the complaint about its violation.
fn going_away() -> Option<CloseFrame> {
    Some((Some(CloseCode::GOING_AWAY), "server shutting down".into()))
}

fn echo() -> Option<CloseFrame> {
    Some((Some(CloseCode::NORMAL), String::new()))
}

fn complaint() -> Option<CloseFrame> {
    Some((Some(CloseCode::INVALID_DATA), "text is not UTF-8".into()))
}

/// The frame that has to be sent and, for [`End`], whether it was the first.
fn happen(close_state: &mut CloseState, event: Event, now: Instant) -> (Option<CloseFrame>, Option<bool>) {
    match event {
        Close => return (close_state.close(ours(), now), None),
        GiveUp => return (close_state.close(CloseReason::Disconnected, now), None),
        PeerClose => close_state.peer_ended(PeerEnd::Close(Some(CloseCode::NORMAL), "done".into()), now),
        Violation => close_state.peer_ended(PeerEnd::Violation(violation()), now),
        PeerLost => close_state.peer_ended(PeerEnd::Lost(CloseReason::Disconnected), now),
        Answer => return (close_state.answer(now), None),
        WriteFailed => close_state.write_failed(broken()),
        End => return (None, Some(close_state.end(CloseReason::HandlerPanicked(String::new())))),
    }
    (None, None)
}

fn after(events: &[Event], now: Instant) -> CloseState {
    let mut close_state = CloseState::new(TIMEOUT);
    events.iter().for_each(|event| _ = happen(&mut close_state, *event, now));
    close_state
}

/// The name of the phase, and whether its deadline counts from `now`.
fn phase(close_state: &CloseState, now: Instant) -> (&'static str, bool) {
    let begins = close_state.deadline() == Some(now + TIMEOUT);
    let name = match close_state.phase() {
        Phase::Open => "Open",
        Phase::PeerEnded { .. } => "PeerEnded",
        Phase::Closing { .. } => "Closing",
        Phase::Closed { .. } => "Closed",
        Phase::Broken => "Broken",
        Phase::Over => "Over",
    };
    (name, begins)
}

/// Each way into each phase, and what each event then leads to: the phase, whether its time begins now, the frame to
/// send, and the cause.
#[test]
fn every_event_in_every_phase() {
    let first = Instant::now();
    let now = first + Duration::from_secs(1);
    let nobody = CloseReason::HandlerPanicked(String::new());
    let disconnected = CloseReason::Disconnected;
    type Next = (&'static str, bool, Option<CloseFrame>, CloseReason);
    let stays = |name, cause: &CloseReason| -> Next { (name, false, None, cause.clone()) };
    let over = |cause: &CloseReason| -> Next { ("Over", false, None, cause.clone()) };
    let table: Vec<(&[Event], [Next; 8])> = vec![
        (
            &[],
            [
                ("Closing", true, going_away(), ours()),
                stays("Open", &unknown()),
                ("PeerEnded", true, None, theirs()),
                ("PeerEnded", true, None, violation()),
                ("PeerEnded", true, None, disconnected.clone()),
                stays("Open", &unknown()),
                stays("Broken", &broken()),
                over(&nobody),
            ],
        ),
        (
            &[PeerClose],
            [
                ("Closed", true, echo(), theirs()),
                ("Closed", true, echo(), theirs()),
                stays("PeerEnded", &theirs()),
                // In a message from before its end, which was looked at late.
                stays("PeerEnded", &violation()),
                stays("PeerEnded", &theirs()),
                ("Closed", true, echo(), theirs()),
                stays("Broken", &theirs()),
                over(&theirs()),
            ],
        ),
        (
            &[Violation],
            [
                ("Closed", true, complaint(), violation()),
                ("Closed", true, complaint(), violation()),
                stays("PeerEnded", &violation()),
                stays("PeerEnded", &violation()),
                stays("PeerEnded", &violation()),
                ("Closed", true, complaint(), violation()),
                stays("Broken", &violation()),
                over(&violation()),
            ],
        ),
        // Nobody is there to answer.
        (
            &[PeerLost],
            [
                ("Closed", true, None, disconnected.clone()),
                ("Closed", true, None, disconnected.clone()),
                stays("PeerEnded", &disconnected),
                stays("PeerEnded", &violation()),
                stays("PeerEnded", &disconnected),
                ("Closed", true, None, disconnected.clone()),
                stays("Broken", &disconnected),
                over(&disconnected),
            ],
        ),
        (
            &[Close],
            [
                stays("Closing", &ours()),
                stays("Closing", &ours()),
                // The peer's Close frame does not prolong the handshake.
                stays("Closed", &ours()),
                stays("Closed", &ours()),
                stays("Closed", &ours()),
                stays("Closing", &ours()),
                stays("Broken", &ours()),
                over(&ours()),
            ],
        ),
        (&[Close, PeerClose], nothing_more(&ours())),
        (&[PeerClose, Answer], nothing_more(&theirs())),
        (&[PeerClose, Close], nothing_more(&theirs())),
        (&[Violation, Answer], nothing_more(&violation())),
        (&[PeerClose, Violation, Answer], nothing_more(&violation())),
        (&[PeerLost, Answer], nothing_more(&disconnected)),
        // What the peer sent before a write failed may be the cause.
        (
            &[WriteFailed],
            [
                stays("Broken", &broken()),
                stays("Broken", &broken()),
                stays("Broken", &theirs()),
                stays("Broken", &violation()),
                stays("Broken", &broken()),
                stays("Broken", &broken()),
                stays("Broken", &broken()),
                over(&broken()),
            ],
        ),
        (&[Close, WriteFailed], EVENTS.map(|event| stays(if event == End { "Over" } else { "Broken" }, &ours()))),
        (&[WriteFailed, PeerClose], EVENTS.map(|event| stays(if event == End { "Over" } else { "Broken" }, &theirs()))),
        (&[End], EVENTS.map(|_| over(&nobody))),
        (&[PeerClose, End], EVENTS.map(|_| over(&theirs()))),
        (&[WriteFailed, End], EVENTS.map(|_| over(&broken()))),
    ];
    fn nothing_more(cause: &CloseReason) -> [Next; 8] {
        EVENTS.map(|event| match event {
            WriteFailed => ("Broken", false, None, cause.clone()),
            End => ("Over", false, None, cause.clone()),
            _ => ("Closed", false, None, cause.clone()),
        })
    }
    for (before, expected) in table {
        for (event, (name, begins, frame, cause)) in EVENTS.into_iter().zip(expected) {
            let mut close_state = after(before, first);
            let was_over = close_state.phase() == Phase::Over;
            let by = close_state.deadline();
            let (sent, is_first) = happen(&mut close_state, event, now);
            assert_eq!(phase(&close_state, now), (name, begins), "{event:?} after {before:?}");
            assert_eq!(sent, frame, "{event:?} after {before:?}");
            assert_eq!(close_state.reason(unknown()), cause, "{event:?} after {before:?}");
            assert_eq!(is_first, (event == End).then_some(!was_over), "{event:?} after {before:?}");
            assert_eq!(close_state.accepts(), ["Open", "PeerEnded"].contains(&name));
            match name {
                "Open" | "Broken" | "Over" => assert_eq!(close_state.deadline(), None),
                _ if begins => {}
                _ => assert_eq!(close_state.deadline(), by, "{event:?} after {before:?}: the time goes on"),
            }
        }
    }
}

#[test]
fn the_code_that_we_sent_is_known_when_it_is_written_and_the_peers_when_it_is_read() {
    let now = Instant::now();
    let mut close_state = after(&[Close, PeerClose], now);
    assert_eq!((close_state.sent(), close_state.received()), (None, Some(CloseCode::NORMAL)));
    close_state.close_written();
    assert_eq!(close_state.sent(), Some(CloseCode::GOING_AWAY));
    for (word, sent) in [
        (PeerEnd::Close(Some(CloseCode::NORMAL), String::new()), Some(CloseCode::NORMAL)),
        (PeerEnd::Close(None, String::new()), None),
        (PeerEnd::Violation(violation()), Some(CloseCode::INVALID_DATA)),
        (PeerEnd::Lost(CloseReason::Disconnected), None),
    ] {
        let received = if let PeerEnd::Close(code, _) = word { code } else { None };
        let mut close_state = CloseState::new(TIMEOUT);
        close_state.peer_ended(word, now);
        close_state.answer(now);
        close_state.close_written();
        assert_eq!((close_state.sent(), close_state.received()), (sent, received));
    }
}

proptest! {
    #[test]
    fn phases_go_on_the_first_cause_stays_and_the_end_is_new_once(
        happenings in vec((prop::sample::select(&EVENTS[..]), 0..10_000u64), 1..40),
    ) {
        let rank = |close_state: &CloseState| match close_state.phase() {
            Phase::Open => 0,
            Phase::PeerEnded { .. } | Phase::Closing { .. } => 1,
            Phase::Closed { .. } => 2,
            Phase::Broken => 3,
            Phase::Over => 4,
        };
        let mut now = Instant::now();
        let mut close_state = CloseState::new(TIMEOUT);
        let (mut frames, mut ends) = (0, 0);
        for (event, pause) in happenings {
            now += Duration::from_millis(pause);
            let (rank_before, phase_before) = (rank(&close_state), close_state.phase());
            let (reason_before, had_cause) = (close_state.reason(unknown()), close_state.cause.is_some());
            let (frame, is_first) = happen(&mut close_state, event, now);
            frames += usize::from(frame.is_some());
            ends += usize::from(is_first == Some(true));
            let phase = close_state.phase();
            prop_assert!(rank(&close_state) >= rank_before, "{event:?} went back from {phase_before:?} to {phase:?}");
            prop_assert!(rank(&close_state) > rank_before || phase == phase_before, "{event:?} moved the deadline");
            prop_assert!(frame.is_none() || rank_before < 2, "a Close frame after both sides have ended");
            // A failed write is the cause until a better one is known. So is the peer's end until something is found
            // that was wrong before it.
            let is_late = event == Violation && matches!(phase_before, Phase::PeerEnded { .. });
            let may_change = reason_before == unknown() || !had_cause && reason_before == broken() || is_late;
            prop_assert!(may_change || close_state.reason(unknown()) == reason_before, "{event:?} changed the cause");
            prop_assert!(!close_state.accepts() || ends == 0 && frames == 0);
        }
        prop_assert!(frames <= 1, "two Close frames");
        let is_over = close_state.phase() == Phase::Over;
        prop_assert_eq!((ends, close_state.end(unknown())), (usize::from(is_over), !is_over));
    }
}
