//! `apikeys usage`: adds up the requests by key and outcome that gateways wrote into their logs.
//!
//! Hosts put a prefix before a line of the audit log, and nginx adds a client's text after it. So
//! the first object of a line counts, and only if no quote comes before it but those of Kong's
//! prefix, as docs/audit.md says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::admin_error::one_line;
use crate::args::UsageArgs;
use crate::{keys, output};

/// Requests by outcome.
type Outcomes = BTreeMap<String, u64>;

/// The sums of all lines.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    from: Option<String>,
    to: Option<String>,
    keys: BTreeMap<String, Outcomes>,
    /// Requests that no gateway counted by a key.
    other: Outcomes,
}

/// Prints the sums of the logs.
pub(crate) fn run(args: &UsageArgs) -> Result<()> {
    if let Some(id) = &args.key {
        keys::checked_id(id)?;
    }
    let mut sums = Sums::default();
    for log in &args.log {
        let read = match log.as_os_str() == "-" {
            true => sums.read(stdin().lock()),
            false => sums.read_file(log),
        };
        read.with_context(|| format!("the log {}", log.display()))?;
    }
    if let Some(id) = &args.key {
        sums.keys.retain(|known, _| known == id);
        sums.other.clear();
    }
    if args.output.is_json() {
        return Ok(output::result(&format!("{:#}", sums.document()))?);
    }
    let rows = sums.rows();
    if rows.is_empty() {
        output::note("the logs have no line of such requests: see usage in docs/settings.md");
        return Ok(());
    }
    let heads = ["KEY ID", "OUTCOME", "REQUESTS"];
    Ok(output::result(&output::grid(&heads, &rows))?)
}

impl Sums {
    fn read_file(&mut self, path: &Path) -> Result<()> {
        self.read(BufReader::new(File::open(path)?))
    }

    fn read(&mut self, mut log: impl BufRead) -> Result<()> {
        let mut line = Vec::new();
        while log.read_until(b'\n', &mut line)? > 0 {
            if let Some(found) = usage_line(&String::from_utf8_lossy(&line)) {
                self.add(&found);
            }
            line.clear();
        }
        Ok(())
    }

    fn add(&mut self, line: &Map<String, Value>) {
        let text = |name: &str| line.get(name).and_then(Value::as_str).map(str::to_owned);
        let outcomes = match text("key_id") {
            Some(id) => self.keys.entry(id).or_default(),
            None => &mut self.other,
        };
        for (name, count) in line {
            if let Some(count) = count.as_u64() {
                let sum = outcomes.entry(name.clone()).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        // All are UTC and of one form.
        if let Some(from) = text("from") {
            self.from = Some(
                self.from
                    .take()
                    .map_or(from.clone(), |least| least.min(from)),
            );
        }
        self.to = self.to.take().max(text("time"));
    }

    fn document(&self) -> Value {
        let key =
            |(id, outcomes): (&String, &Outcomes)| json!({ "key_id": id, "outcomes": outcomes });
        json!({
            "from": self.from,
            "to": self.to,
            "keys": self.keys.iter().map(key).collect::<Vec<_>>(),
            "other": self.other,
        })
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let keys = self
            .keys
            .iter()
            .map(|(id, outcomes)| (one_line(id), outcomes));
        keys.chain([("other".to_owned(), &self.other)])
            .flat_map(|(id, outcomes)| {
                let row = move |(name, count): (&String, &u64)| {
                    vec![id.clone(), one_line(name), count.to_string()]
                };
                outcomes.iter().map(row)
            })
            .collect()
    }
}

/// The object of a line of the audit log that counts requests.
fn usage_line(line: &str) -> Option<Map<String, Value>> {
    let (before, rest) = line.split_at_checked(line.find('{')?)?;
    let is_ours = rest.starts_with(r#"{"event":"usage","#) && is_hosts_prefix(before);
    let object = rest.get(..=rest.find('}')?).filter(|_| is_ours)?;
    serde_json::from_str(object).ok()
}

/// Whether only the host can have written this: it holds no quote, but for the filter's name in
/// Kong's `["apikey_jwt_exchange" #1] `.
fn is_hosts_prefix(text: &str) -> bool {
    let filter = || {
        let (before, name) = text.strip_suffix("] ")?.split_once("[\"")?;
        let (name, number) = name.split_once("\" #")?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        (digits && !name.contains('"')).then_some(before)
    };
    !filter().unwrap_or(text).contains('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(logs: &[&str]) -> Sums {
        let mut sums = Sums::default();
        for log in logs {
            sums.read(log.as_bytes()).unwrap();
        }
        sums
    }

    #[test]
    fn lines_of_several_logs_add_up_by_key_and_outcome() {
        let kong = concat!(
            "2026/11/30 10:01:00 [warn] 7#0: *1 [\"apikey_jwt_exchange\" #1] ",
            r#"{"event":"usage","time":"2026-11-30T10:01:00.000Z","from":"2026-11-30T10:00:01.000Z","realm":"demo","key_id":"abc123def456","hit":3,"first_use":1}, client: 1.2.3.4"#,
            "\nanother line\n",
            r#"x {"event":"usage","time":"2026-11-30T10:01:00.000Z","from":"2026-11-30T10:00:01.000Z","realm":"demo","invalid_api_key":5}"#,
        );
        let envoy = r#"[2026-11-30 10:02:00.1][1][info][wasm] [x.cc:1] wasm log: {"event":"usage","time":"2026-11-30T10:02:00.000Z","from":"2026-11-30T10:01:00.000Z","realm":"demo","key_id":"abc123def456","hit":4}"#;
        let sums = sums(&[kong, envoy]);
        assert_eq!(
            sums.document(),
            json!({
                "from": "2026-11-30T10:00:01.000Z",
                "to": "2026-11-30T10:02:00.000Z",
                "keys": [{"key_id": "abc123def456", "outcomes": {"hit": 7, "first_use": 1}}],
                "other": {"invalid_api_key": 5},
            })
        );
        let table = output::grid(&["KEY ID", "OUTCOME", "REQUESTS"], &sums.rows());
        assert!(
            table.ends_with("abc123def456  hit              7\nother         invalid_api_key  5"),
            "{table}"
        );
    }

    #[test]
    fn a_line_that_a_client_may_have_written_does_not_count() {
        let line = r#"{"event":"usage","time":"t","from":"f","realm":"demo","key_id":"k","hit":1}"#;
        for forged in [
            format!("request: \"GET /{line}\""),
            format!("[\"a\" #1] referrer: \"{line}\""),
            format!("\"[\"a\" #1] {line}"),
            format!("{{\"event\":\"exchange\"}} {line}"),
            line.replace("usage", "exchange"),
            line.replace('}', ""),
        ] {
            assert_eq!(sums(&[&forged]), Sums::default(), "{forged}");
        }
        assert_eq!(sums(&[line]).keys.len(), 1);
    }

    #[test]
    fn a_log_that_is_no_text_is_read_to_its_end() {
        let mut sums = Sums::default();
        let log = b"\xff\xfe\n{\"event\":\"usage\",\"key_id\":\"k\",\"hit\":1}";
        sums.read(log.as_slice()).unwrap();
        assert_eq!(sums.keys.len(), 1);
    }
}
