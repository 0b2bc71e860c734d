//! Adds up the lines to dollars per million readings and per junction and month.

use std::collections::BTreeMap;
use std::fmt;

use super::meter::{DECISIONS_BYTES, Used};
use super::prices::{self, Price};
use super::street::Stored;
use super::{ALARM_METRICS, Args, GIB, RETENTION_H};

/// Hours of a month, as AWS reckons.
const MONTH_H: f64 = 730.0;
/// `DECISIONS_RETENTION_DAYS` of template.yaml, in months.
const DECISIONS_MONTHS: f64 = 30.0 * 24.0 / MONTH_H;
/// `LogRetentionDays` of template.yaml, in months.
const LOGS_MONTHS: f64 = 30.0 * 24.0 / MONTH_H;
/// Metrics that are emitted; an allowance.
const METRICS: f64 = 36.0;
/// Hours of retention that the stream has for nothing.
const RETENTION_FREE_H: f64 = 24.0;
/// X-Ray's default rule: a request a second and a twentieth of the others, for each function.
const TRACED_A_SECOND: f64 = 1.0;
const TRACED_SHARE: f64 = 0.05;
/// Keys are asked for every five minutes: once for each table, and by each party for each shard. An allowance.
const TABLES: f64 = 7.0;
const PARTIES: f64 = 3.0;
const KEYS_AN_HOUR: f64 = 12.0;

/// One line.
#[derive(Clone, Debug)]
struct Item {
    what: String,
    price: &'static Price,
    /// Units per million readings.
    units: f64,
    /// Dollars per million readings.
    dollars: f64,
}

/// What a city costs.
pub struct Bill {
    title: String,
    items: Vec<Item>,
    notes: Vec<String>,
    readings_per_month: f64,
    junctions: f64,
    machines: f64,
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

impl Bill {
    pub(super) fn new(args: &Args, readings: u64, lines: &[(&'static str, Used)], environments: [usize; 2], stored: &Stored) -> Self {
        let hours = f64::from(args.minutes) / 60.0;
        let millions = float(readings) / 1e6;
        let months = hours / MONTH_H;
        let mut items = Vec::new();
        let mut add = |what: &str, price: &'static Price, units: f64| {
            let units = units / millions;
            items.push(Item { what: what.to_owned(), price, units, dollars: price.of(units) });
        };
        let (mut log_gb, mut stream_gb) = (0.0, 0.0);
        let (mut decision_bytes, mut decisions) = (0.0, 0);
        for (what, used) in lines {
            if *what == DECISIONS_BYTES {
                // As many bytes lie there as are written in the retention.
                let gb_months = used.units / GIB * DECISIONS_MONTHS;
                (decision_bytes, decisions) = (used.units, used.calls);
                add("decision records, stored", &prices::TABLE_STORAGE, gb_months);
                add("decision records, recovery", &prices::TABLE_RECOVERY, gb_months);
            } else {
                if *used.price == prices::LOG_IN {
                    log_gb += used.units;
                }
                if *used.price == prices::STREAM_IN {
                    stream_gb += used.units;
                }
                if let Some(function) = what.strip_suffix(": requests") {
                    let always = used.units.min(TRACED_A_SECOND * 3600.0 * hours);
                    add(&format!("{function}: traces"), &prices::TRACE, always + TRACED_SHARE * (used.units - always));
                }
                add(what, used.price, used.units);
            }
        }
        add("logs, stored", &prices::LOG_STORAGE, log_gb * LOGS_MONTHS);
        let rows = super::meter::as_f64(stored.bytes) / GIB * months;
        add("other tables, stored", &prices::TABLE_STORAGE, rows);
        add("other tables, recovery", &prices::TABLE_RECOVERY, rows);
        if let Some(shards) = args.shards {
            add("stream: shard hours", &prices::SHARD_HOUR, f64::from(shards) * hours);
            add("stream: retention", &prices::SHARD_HOUR_RETAINED, f64::from(shards) * hours);
        } else {
            add("stream: hours", &prices::STREAM_HOUR, hours);
            add("stream: retention", &prices::STREAM_RETAINED, stream_gb * (f64::from(RETENTION_H) - RETENTION_FREE_H) / MONTH_H);
        }
        add("metrics", &prices::METRIC, METRICS * months);
        add("alarms", &prices::ALARM, super::meter::as_f64(ALARM_METRICS) * months);
        add("dashboard", &prices::DASHBOARD, months);
        let shards = f64::from(args.shards.unwrap_or(super::SHARDS_ON_DEMAND));
        add("keys", &prices::KEY_REQUEST, (TABLES + PARTIES * shards) * KEYS_AN_HOUR * hours);
        items.sort_by(|a, b| b.dollars.total_cmp(&a.dollars));
        let notes = vec![
            format!(
                "{readings} readings in {} simulated minutes; environments: signals {}, maintenance {}",
                args.minutes, environments[0], environments[1]
            ),
            format!(
                "items, bytes: plan and state {}, condition {} ({} of it state), configuration {}, each of {decisions} decision records {:.0}",
                stored.junction,
                stored.condition,
                stored.state,
                stored.configuration,
                decision_bytes / float(decisions.max(1))
            ),
        ];
        let stream = args.shards.map_or("on demand".to_owned(), |shards| format!("provisioned, {shards} shards"));
        let title = format!(
            "{} junctions with {} detectors, {} s step{}, {} machines with a cycle of {} s, at most {} readings per post, stream {stream}",
            args.junctions,
            args.detectors,
            args.step_s,
            if args.counts { " (counts only)" } else { "" },
            args.machines,
            args.cycle_s,
            args.readings_per_post
        );
        let readings_per_month = float(readings) / months;
        Self {
            title,
            items,
            notes,
            readings_per_month,
            junctions: super::meter::as_f64(args.junctions),
            machines: super::meter::as_f64(args.machines),
        }
    }

    /// Dollars per million readings.
    pub fn per_million(&self) -> f64 {
        self.items.iter().map(|item| item.dollars).sum()
    }

    /// Dollars per million readings of the lines whose name begins so.
    pub fn part(&self, prefix: &str) -> f64 {
        self.items.iter().filter(|item| item.what.starts_with(prefix)).map(|item| item.dollars).sum()
    }

    /// Units per million readings of one line; 0 if there is none.
    pub fn units(&self, what: &str) -> f64 {
        self.items.iter().find(|item| item.what == what).map_or(0.0, |item| item.units)
    }

    fn month(&self) -> f64 {
        self.per_million() * self.readings_per_month / 1e6
    }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        writeln!(f, "{:>10}  {:>6}  {:>14}  {:<38} unit", "$/million", "share", "units/million", "for")?;
        let total = self.per_million();
        let mut shown = 0.0;
        for item in &self.items {
            if item.dollars < 0.002 * total {
                continue;
            }
            shown += item.dollars;
            let (share, unit) = (100.0 * item.dollars / total, item.price.unit);
            writeln!(f, "{:>10.4}  {share:>5.1}%  {:>14.3}  {:<38} {unit}", item.dollars, item.units, item.what)?;
        }
        writeln!(f, "{:>10.4}  {:>5.1}%  {:>14}  lines below 0.2 %", total - shown, 100.0 * (total - shown) / total, "")?;
        writeln!(f, "{total:>10.4}  per million readings; without the plans fetched {:.4}", total - self.part("plans fetched"))?;
        write!(f, "{:>10.2}  per month", self.month())?;
        for (count, what) in [(self.junctions, "junction"), (self.machines, "machine")] {
            if count > 0.0 {
                write!(f, ", {:.4} per {what}", self.month() / count)?;
            }
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        writeln!(f, "\nList prices in {}, read on {}:", prices::REGION, prices::READ_ON)?;
        let prices: BTreeMap<_, _> = self.items.iter().map(|item| (item.price.unit, item.price)).collect();
        for price in prices.into_values() {
            writeln!(f, "  ${} for {} {}: {}", price.dollars, price.per, price.unit, price.source)?;
        }
        writeln!(
            f,
            "\nLeft out: data transfer, free tiers, support, cold starts, what people and controllers read besides one list of all plans a step.\n\
             Allowed for, not measured: times of calls to AWS (5 ms a read, 7 ms a write, 15 ms for PutRecords) and 0.2 ms of CPU for each;\n\
             1000 bytes of metrics for each call of a function, {METRICS} metrics, keys asked for every five minutes, X-Ray's default\n\
             sampling. CPU is measured on this machine and scaled to a function's share of a vCPU. Any idle environment may get the next call."
        )
    }
}
