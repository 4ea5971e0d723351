//! When a connection sends its first Ping: connections are spread over the interval, but share a limited set of
//! instants.

use std::time::Duration;

use super::HeartbeatPolicy;

/// Where in its interval a connection sends its first Ping: in its second half. Multiples of the golden ratio spread
/// connections evenly that were opened one after the other.
fn spread(number: u64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    1.0 - (number as f64 * GOLDEN).fract() * (0.5 - 1.0 / f64::from(SLOTS))
}

/// Instants in each interval at which Pings are sent, the same for all connections. With many connections, one wake-up
/// of a processor then serves several of them, which halves the cost.
const SLOTS: u32 = 100;

/// The phase of a heartbeat that begins `since_epoch` after an instant that all connections share: that of [`spread`],
/// or a little less, so that it falls on the start of a slot.
pub(crate) fn phase(number: u64, policy: &HeartbeatPolicy, since_epoch: Duration) -> f64 {
    let phase = spread(number);
    let Some(interval) = policy.ping_interval() else { return phase };
    let first = since_epoch.as_secs_f64() + interval.as_secs_f64() * phase;
    let into_slot = first % (interval.as_secs_f64() / f64::from(SLOTS));
    phase - into_slot / interval.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_opened_together_do_not_beat_together() {
        let mut phases: Vec<f64> = (1..=1000).map(spread).collect();
        assert!(phases.iter().all(|phase| *phase > 0.5 && *phase <= 1.0));
        phases.sort_by(f64::total_cmp);
        let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(widest < 3.0 * 0.5 / 1000.0, "the widest gap is {widest}");
    }

    #[test]
    fn many_connections_beat_at_few_instants() {
        let interval = Duration::from_secs(20);
        let policy = HeartbeatPolicy::keepalive(interval);
        let mut instants: Vec<u128> = Vec::new();
        for number in 1..=1000 {
            let opened = Duration::from_micros(137 * number);
            let phase = phase(number, &policy, opened);
            assert!((0.5..=1.0).contains(&phase), "{phase}");
            let first = opened + interval.mul_f64(phase);
            // Rounded to milliseconds, since phases are rounded.
            instants.push((first.as_micros() + 500) / 1000);
        }
        instants.sort_unstable();
        instants.dedup_by(|later, earlier| *later - *earlier <= 1);
        assert!(instants.len() <= SLOTS as usize / 2 + 2, "{}", instants.len());
        assert!(instants.len() >= SLOTS as usize / 3, "{}", instants.len());
    }
}
