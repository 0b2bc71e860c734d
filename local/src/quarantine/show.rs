//! Entries as text that a terminal can bear: what could steer it is escaped.

use std::fmt::Write as _;

use shared::quarantine::{Entry, HeldRecord, Kind, Replayed};
use shared::units::Timestamp;
use shared::wire::ReadingRecord;

use super::survey::Found;

/// Characters of a reason in a list.
const REASON_CHARS_MAX: usize = 60;
/// Bytes in a line of a dump.
const DUMP_LINE: usize = 16;

/// A text in one line: control characters, invisible ones and those that turn the direction of writing are escaped.
pub(super) fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\'' | '\\') {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    out
}

pub(super) const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Poison => "poison",
        Kind::FailedBatch => "failed batch",
        Kind::Unreadable => "unreadable",
    }
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "unknown".to_owned(), |at| at.to_string())
}

pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A table with a line for each entry.
pub(super) fn table(found: &[Found]) -> Vec<String> {
    let mut rows = vec![["WHEN", "KIND", "FUNCTION", "KEY", "RECORDS", "BYTES", "BACK", "REASON", "ID"].map(str::to_owned)];
    rows.extend(found.iter().map(row));
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; 9]| {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers stand to the right.
            let _ = if (4..7).contains(&column) { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:width$}  ") };
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn row(found: &Found) -> [String; 9] {
    let key = match (found.keys.first(), found.keys.len()) {
        (None, _) => "-".to_owned(),
        (Some(key), 1) => safe(key),
        (Some(key), keys) => format!("{} +{}", safe(key), keys - 1),
    };
    let mut reason = safe(&found.reason);
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
        reason.push('…');
    }
    let function = if found.function.is_empty() { "-".to_owned() } else { safe(&found.function) };
    let back = if found.came_back == 0 { "-".to_owned() } else { format!("{}x", found.came_back) };
    let (records, bytes) = (found.records.to_string(), found.bytes.to_string());
    [time(found.at), kind(found.kind).to_owned(), function, key, records, bytes, back, reason, safe(&found.id)]
}

/// All that is known of an entry, its bytes included.
pub(super) fn entry(entry: &Entry, came_back: usize, earlier: &[&Replayed]) -> Vec<String> {
    let mut lines = vec![
        format!("id        {}", safe(&entry.id)),
        format!("kind      {}", kind(entry.kind)),
        format!("when      {}", time(entry.at)),
        format!("function  {}", if entry.function.is_empty() { "unknown".to_owned() } else { safe(&entry.function) }),
        format!("reason    {}", safe(&entry.reason)),
        format!("records   {} with {}", entry.records.len(), counted(entry.bytes(), "byte", "bytes")),
    ];
    if !earlier.is_empty() {
        lines.push(format!("history   came back {}:", if came_back == 1 { "once".to_owned() } else { format!("{came_back} times") }));
        lines.extend(earlier.iter().map(|replayed| {
            let Replayed { kind: was, function, at, reason, replayed_at, .. } = replayed;
            format!("          {} {} by {}: {}; replayed {replayed_at}", time(*at), kind(*was), safe(function), safe(reason))
        }));
    }
    for record in &entry.records {
        lines.push(String::new());
        lines.extend(record_lines(record));
    }
    lines
}

fn record_lines(record: &HeldRecord) -> Vec<String> {
    let HeldRecord { shard, sequence, key, data, arrived_at } = record;
    let arrived = arrived_at.map(|at| format!(", arrived {at}")).unwrap_or_default();
    let place = format!("record {} of {}, key {}{arrived}", safe(sequence), safe(shard), safe(key));
    let mut lines = vec![place];
    if let Ok(decoded) = ReadingRecord::from_bytes(data) {
        let request = decoded.request_id.map(|id| format!(" with request {}", safe(&id))).unwrap_or_default();
        lines.push(format!("  {} received {}{request}:", counted(decoded.readings.len(), "reading", "readings"), decoded.received_at));
        let readings = decoded.readings.iter().map(|reading| serde_json::to_string(reading).unwrap_or_else(|error| error.to_string()));
        lines.extend(readings.map(|reading| format!("  {}", safe(&reading))));
    } else if let Ok(text) = std::str::from_utf8(data) {
        lines.push(format!("  {}", safe(text)));
    } else {
        lines.extend(data.chunks(DUMP_LINE).enumerate().map(|(i, bytes)| dump_line(i * DUMP_LINE, bytes)));
    }
    lines
}

/// `00000010  7b 22 ff                                         {".`
fn dump_line(offset: usize, bytes: &[u8]) -> String {
    let (mut digits, mut text) = (String::new(), String::new());
    for &byte in bytes {
        let _ = write!(digits, "{byte:02x} ");
        text.push(if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' });
    }
    format!("  {offset:08x}  {digits:48} {text}")
}
