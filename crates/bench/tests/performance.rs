//! docs/performance.md shows the figures of crates/bench/results.json, and each picture that it
//! names exists.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says what went wrong by failing; what a JSON text lacks is null"
)]

use apikeys_bench::page;
use test_kit::repository::read;

#[test]
fn the_page_shows_the_figures_of_the_last_bench() {
    let results = serde_json::from_str(&read("crates/bench/results.json")).unwrap();
    let shown = read("docs/performance.md");
    assert!(shown.contains("<!-- bench: rows "), "no table is marked");
    let filled = page::fill(&shown, &results).unwrap();
    assert!(
        filled == shown,
        "its tables are of another run: make bench writes them"
    );
}

#[test]
fn a_table_of_another_run_is_made_anew() {
    let results = serde_json::json!({
        "rows": {"wasm_mb": {"median": 1.2, "least": 1.1, "most": 1.3, "bound": "<= 1.5", "met": true, "what": "size"}},
    });
    let old = "a\n<!-- bench: rows wasm_mb -->\nold\n<!-- bench end -->\nb";
    let new = page::fill(old, &results).unwrap();
    assert!(
        new.contains("| `wasm_mb` | size | 1.2 | 1.1 to 1.3 | ≤ 1.5 | met |"),
        "{new}"
    );
    assert!(!new.contains("old") && new.ends_with("\nb"));
    assert_eq!(page::fill(&new, &results).unwrap(), new);
    for wrong in [
        "<!-- bench: rows wasm_mb -->\nno end",
        "<!-- bench: rows startup_ms -->\n<!-- bench end -->",
        "<!-- bench: other -->\n<!-- bench end -->",
        "<!-- bench: curve none -->\n<!-- bench end -->",
    ] {
        assert!(page::fill(wrong, &results).is_err(), "{wrong}");
    }
}

#[test]
fn each_picture_of_the_page_is_there() {
    let page = read("docs/performance.md");
    let pictures: Vec<&str> = page
        .split("](../crates/bench/")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|name| name.ends_with(".svg"))
        .collect();
    assert!(pictures.len() > 3, "{pictures:?}");
    for picture in pictures {
        assert!(
            read(&format!("crates/bench/{picture}")).contains("<svg"),
            "{picture}"
        );
    }
}
