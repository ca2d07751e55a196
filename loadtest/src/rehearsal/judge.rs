//! What has to hold: every figure with its bound.

use std::time::Duration;

use super::cluster::Left;
use super::load::Summary;
use super::report::Check;
use super::{Options, RehearsalError, SHARE};
use crate::units::grouped;

/// A rate is judged over so many seconds: within one of them chance has its part, since each device draws its own delay.
pub(super) const STRETCH: usize = 10;
/// What chance adds at the edges of such a stretch.
const CHANCE: f64 = 1.05;
/// All devices of a node that was killed are back within this, and all of one that left before its budget is over.
const BACK_WITHIN: Duration = Duration::from_secs(70);

/// A node that was replaced.
pub(super) struct Drained {
    pub(super) name: String,
    /// Its devices as it was told to leave.
    pub(super) devices: u64,
    pub(super) left: Left,
    /// The most handshakes a second that the others took: over [`STRETCH`] seconds, and in one.
    pub(super) peak: (f64, f64),
    /// Handshakes it refused because it left.
    pub(super) turned_away: u64,
    /// Attempts to connect that failed anywhere from the SIGTERM to its end.
    pub(super) failures: u64,
    /// Devices that it closed for good since they had not left in time.
    pub(super) cut: bool,
    /// From its end until all devices were there.
    pub(super) back: Option<Duration>,
}

/// What else happened.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) drained: Vec<Drained>,
    /// The highest share of a node of the mean, at the end.
    pub(super) share: f64,
    /// From the SIGKILL until all devices were there; nothing where they were not.
    pub(super) killed: Option<Option<Duration>>,
    /// Devices that were there before the end.
    pub(super) there: u64,
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Every check, in the order it is shown.
pub(super) fn checks(options: &Options, seen: &Seen, summary: &Summary) -> Result<Vec<Check>, RehearsalError> {
    let mut checks = Vec::new();
    for drained in &seen.drained {
        checks.extend(drain(options, drained));
    }
    let refused = summary.errors("connecting: refused with 503");
    checks.push(Check::zero("handshakes that devices saw refused with 503, in all", refused));
    if let Some(back) = seen.killed {
        checks.push(back_in_time("after the SIGKILL all devices are back", back));
    }
    checks.push(share(options, seen));
    let (wanted, there) = (u64::from(options.devices), seen.there);
    let figure = format!("{} of {}", grouped(there), grouped(wanted));
    checks.push(Check::new("devices that are there before the end", figure, "all", there == wanted));
    checks.extend(ledger(options, summary)?);
    Ok(checks)
}

fn back_in_time(name: impl Into<String>, back: Option<Duration>) -> Check {
    let figure = back.map_or_else(|| "never".to_owned(), seconds);
    Check::new(name, figure, seconds(BACK_WITHIN), back.is_some_and(|back| back <= BACK_WITHIN))
}

fn drain(options: &Options, drained: &Drained) -> [Check; 6] {
    let Drained { name, devices, left, peak: (stretch, second), turned_away, failures, cut, back } = drained;
    let code = left.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    let allowed = Duration::from_secs(options.propagation_s + options.budget_s);
    let (rate, figure) = (f64::from(options.rate_per_s), seconds(left.took));
    let taken = format!("{stretch:.1}/s over {STRETCH} s ({second:.0} in the worst second)");
    [
        Check::new(format!("{name}, {devices} devices: exit code"), code, "0", left.code == Some(0)),
        Check::new(
            format!("{name}: from SIGTERM to its end"),
            figure,
            format!("{} of propagation and budget, nobody cut short", seconds(allowed)),
            left.took <= allowed && !cut,
        ),
        Check::new(
            format!("{name}: reconnects"),
            taken,
            format!("{rate:.0}/s, and {:.0} % for chance", (CHANCE - 1.0) * 100.0),
            *stretch <= rate * CHANCE,
        ),
        Check::zero(format!("{name}: handshakes it refused as it left"), *turned_away),
        Check::zero(format!("{name}: attempts to connect that failed meanwhile"), *failures),
        back_in_time(format!("{name}: all devices are back after its end"), *back),
    ]
}

fn share(options: &Options, seen: &Seen) -> Check {
    let (name, figure) = ("the fullest node, beside the mean", format!("{:.2}", seen.share));
    if options.rebalance {
        return Check::new(name, figure, SHARE, seen.share <= SHARE);
    }
    Check::left_out(name, figure, "not judged: without --rebalance nodes keep what they have")
}

fn ledger(options: &Options, summary: &Summary) -> Result<Vec<Check>, RehearsalError> {
    let number = |name: &str| summary.number(&format!("/ledger/{name}"));
    let (acked, stored) = (number("acked")?, number("stored")?);
    let least = u64::from(options.devices);
    let figure = format!("{} of {}", grouped(stored), grouped(acked));
    let complete = summary.at("/ledger/complete")? == true && acked >= least && stored == acked;
    let mut checks =
        vec![Check::new("acked messages found in Kafka", figure, format!("all, {least} at least"), complete)];
    for name in ["lost", "doubled", "reordered", "altered", "acked_and_refused"] {
        checks.push(Check::zero(format!("acked messages {}", name.replace('_', " ")), number(name)?));
    }
    let accepted = number("commands/accepted")?;
    checks.push(Check::new("commands accepted", grouped(accepted), "some", accepted > 0));
    let (asked, failed) = (summary.number("/counts/commands_asked")?, summary.number("/counts/commands_failed")?);
    let figure = format!("{} of {}", grouped(failed), grouped(asked));
    checks.push(Check::new("commands that did not succeed", figure, "1 in 1,000", failed <= asked / 1_000));
    for (name, words) in [
        ("without_end", "without an end"),
        ("answered_twice", "answered twice"),
        ("unfounded", "succeeded that no device had"),
        ("misdelivered", "that came to another device"),
    ] {
        checks.push(Check::zero(format!("commands {words}"), number(&format!("commands/{name}"))?));
    }
    let code = summary.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    checks.push(Check::new("the load tester's exit code", code, "0", summary.code == Some(0)));
    Ok(checks)
}

/// What is told beside the checks.
pub(super) fn figures(summary: &Summary) -> Result<Vec<(String, String)>, RehearsalError> {
    let mut figures = Vec::new();
    for (name, words) in [
        ("ack", "publish to ack, from the due moment"),
        ("command", "command, from due to its end"),
        ("reconnect", "reconnect, from the end of a connection"),
    ] {
        let at = |quantile: &str| {
            let value = summary.at(&format!("/timings_ms/{name}/{quantile}"))?;
            Ok::<_, RehearsalError>(value.as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")))
        };
        figures.push((words.to_owned(), format!("p50 {}, p99 {}, longest {}", at("p50")?, at("p99")?, at("max")?)));
    }
    let count = |name: &str| summary.number(&format!("/counts/{name}")).map(grouped);
    let told = format!("{} told to go, {} connects after the first", count("goaways")?, count("reconnects")?);
    figures.push(("devices".to_owned(), told));
    figures.push(("errors that devices and callers saw".to_owned(), summary.all_errors()));
    let warnings = summary.at("/warnings")?.as_array().into_iter().flatten().filter_map(|text| text.as_str());
    figures.extend(warnings.map(|text| ("the load tester warns".to_owned(), text.to_owned())));
    Ok(figures)
}
