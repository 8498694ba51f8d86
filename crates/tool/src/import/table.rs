//! Keys from CSV and from JSON, and the map of owners.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};
use csv::{ReaderBuilder, StringRecord, Trim};
use serde::Deserialize;

use super::entry::{Entry, Refused, Secret};

const HEADS: [&str; 5] = ["owner", "key", "name", "expires_at", "scopes"];

/// Reads a row of heads, and a key from each row below.
pub(crate) fn read_csv(text: &str) -> Result<Vec<Result<Entry, Refused>>> {
    let (heads, rows) = rows(text)?;
    if let Some(at) = heads.iter().position(|head| !HEADS.contains(&head)) {
        // Do not repeat the first row: it may be a key.
        bail!(
            "the first row of the CSV must be heads, of {}; cell {} of it is none",
            HEADS.join(", "),
            at + 1
        );
    }
    for head in HEADS {
        ensure!(
            heads.iter().filter(|other| *other == head).count() < 2,
            "the CSV has the head {head:?} twice"
        );
    }
    for required in ["owner", "key"] {
        ensure!(
            heads.iter().any(|head| head == required),
            "the CSV has no head {required:?}"
        );
    }
    Ok(rows
        .into_iter()
        .map(|(line, row)| entry(&heads, line, &row))
        .collect())
}

fn entry(heads: &StringRecord, line: u64, row: &StringRecord) -> Result<Entry, Refused> {
    let place = format!("line {line}");
    let cell = |name: &str| {
        let at = heads.iter().position(|head| head == name)?;
        row.get(at).filter(|cell| !cell.is_empty())
    };
    let owner = cell("owner");
    if row.len() != heads.len() {
        let reason = format!(
            "it has {} cells, and there are {} heads",
            row.len(),
            heads.len()
        );
        // No cell can be trusted to be the owner's: it may hold the key.
        return Err(Refused::new(&place, None, reason));
    }
    let Some(owner) = owner else {
        return Err(Refused::new(&place, None, "it names no owner"));
    };
    Ok(Entry {
        place,
        owner: owner.to_owned(),
        key: Secret::new(cell("key").unwrap_or_default()),
        name: cell("name").map(str::to_owned),
        expires_at: cell("expires_at").map(str::to_owned),
        scopes: cell("scopes").map(str::to_owned),
    })
}

/// Reads the map from owners' names in a file to their names in Keycloak.
pub(crate) fn read_map(text: &str) -> Result<BTreeMap<String, String>> {
    let (heads, rows) = rows(text)?;
    ensure!(
        heads.iter().eq(["from", "to"]),
        "the first row of --map must be the heads from,to"
    );
    let mut map = BTreeMap::new();
    for (line, row) in rows {
        let (Some(from), Some(to), 2) = (row.get(0), row.get(1), row.len()) else {
            bail!("--map, line {line}: must be two cells");
        };
        ensure!(
            !from.is_empty() && !to.is_empty(),
            "--map, line {line}: has an empty cell"
        );
        if map.insert(from.to_owned(), to.to_owned()).is_some() {
            bail!("--map, line {line}: {from:?} is there twice");
        }
    }
    Ok(map)
}

fn rows(text: &str) -> Result<(StringRecord, Vec<(u64, StringRecord)>)> {
    let mut reader = ReaderBuilder::new()
        .trim(Trim::All)
        .flexible(true)
        .from_reader(text.as_bytes());
    let not_csv = |error: csv::Error| match error.position() {
        Some(position) => anyhow!("line {} is no CSV", position.line()),
        None => anyhow!("it is no CSV"),
    };
    let heads = reader.headers().map_err(not_csv)?.clone();
    let mut rows = Vec::new();
    let (mut counted, mut line) = (0, 1);
    for row in reader.records() {
        let row = row.map_err(not_csv)?;
        // The reader's own line number is that of the empty lines before a row.
        let begins = row.position().map_or(0, csv::Position::byte);
        let begins = usize::try_from(begins).unwrap_or(usize::MAX);
        let skipped = text.bytes().enumerate().skip(counted);
        for (at, byte) in skipped {
            if at >= begins && !matches!(byte, b'\r' | b'\n') {
                break;
            }
            line += u64::from(byte == b'\n');
            counted = at + 1;
        }
        rows.push((line, row));
    }
    Ok((heads, rows))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    owner: Option<String>,
    key: Option<Secret>,
    name: Option<String>,
    expires_at: Option<String>,
    scopes: Option<Scopes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scopes {
    Text(String),
    List(Vec<String>),
}

/// Reads a list of objects.
pub(crate) fn read_json(text: &str) -> Result<Vec<Result<Entry, Refused>>> {
    let items: Vec<Item> = serde_json::from_str(text).map_err(|error| {
        // The parser's message may show a key.
        anyhow!(
            "line {}, column {}: it is not a list of objects with the members {}, each a text",
            error.line(),
            error.column(),
            HEADS.join(", ")
        )
    })?;
    let numbered = items.into_iter().zip(1..);
    Ok(numbered
        .map(|(item, number)| {
            let place = format!("entry {number}");
            let Some(owner) = item.owner.filter(|owner| !owner.trim().is_empty()) else {
                return Err(Refused::new(&place, None, "it names no owner"));
            };
            Ok(Entry {
                place,
                owner: owner.trim().to_owned(),
                key: item.key.unwrap_or_else(|| Secret::new("")),
                name: item.name,
                expires_at: item.expires_at,
                scopes: item.scopes.map(|scopes| match scopes {
                    Scopes::Text(text) => text,
                    Scopes::List(list) => list.join(" "),
                }),
            })
        })
        .collect())
}
