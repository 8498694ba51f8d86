//! Reading of files, and the keys that an import refuses.

use super::*;
use crate::args::OwnerField;
use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::clock::UnixMillis;

mod of_kong;

const KEY: &str = "old-key-number-one";
const OTHER: &str = "old-key-number-two";

fn rules() -> Rules {
    let now = UnixMillis::parse_rfc3339("2026-11-24T10:00:00Z").unwrap();
    Rules {
        format: KeyFormat::new("sk_live_").unwrap().with_index_key(&[7; 32]),
        scopes: vec!["email".into(), "orders".into()],
        name: "Imported".into(),
        expires_at: now.plus_ms(365 * DAY_MS),
        now,
        owners: BTreeMap::new(),
    }
}

fn id_of(key: &str) -> String {
    rules()
        .format
        .parse(key.as_bytes())
        .unwrap()
        .id()
        .to_owned()
}

fn csv(rows: &str) -> (Vec<Import>, Vec<Refused>) {
    let text = format!("owner,key,name,expires_at,scopes\n{rows}");
    rules().apply(table::read_csv(&text).unwrap())
}

fn by(field: OwnerField) -> kong::Reading {
    kong::Reading {
        field,
        dumped_at: None,
    }
}

fn only_refusal((imports, refused): (Vec<Import>, Vec<Refused>)) -> Refused {
    assert!(imports.is_empty());
    let [refusal] = refused.as_slice() else {
        panic!("{refused:?}")
    };
    refusal.clone()
}

#[test]
fn a_csv_row_is_a_key_with_what_it_says_or_the_defaults() {
    let rows = format!(
        "alice, {KEY} ,\"Old, but good\",2027-01-28T00:00:00Z,email orders\n\nbob,{OTHER},,,\n"
    );
    let (imports, refused) = csv(&rows);
    assert_eq!(refused, []);
    let [first, second] = imports.as_slice() else {
        panic!()
    };
    assert_eq!(
        (first.owner.as_str(), first.place.as_str()),
        ("alice", "line 2")
    );
    assert_eq!(
        (first.id.as_str(), first.key.as_str()),
        (id_of(KEY).as_str(), KEY)
    );
    assert_eq!(first.name, "Old, but good");
    assert_eq!(first.expires_at.to_rfc3339(), "2027-01-28T00:00:00Z");
    assert_eq!(first.scopes.as_deref(), Some("email orders"));
    assert_eq!(
        (second.owner.as_str(), second.place.as_str()),
        ("bob", "line 4")
    );
    assert_eq!(second.name, "Imported");
    assert_eq!(second.expires_at.to_rfc3339(), "2027-11-24T10:00:00Z");
    assert_eq!(second.scopes, None);
}

#[test]
fn each_way_to_be_wrong_is_refused_with_its_place_and_never_the_key() {
    let long = "k".repeat(73);
    for (row, owner, words) in [
        ("alice,,,,".to_owned(), Some("alice"), "no key"),
        (format!(",{KEY},,,"), None, "no owner"),
        (format!("alice,{KEY}"), None, "2 cells"),
        (
            "alice,fifteen-letters,,,".to_owned(),
            Some("alice"),
            "16 to 72",
        ),
        (format!("alice,{long},,,"), Some("alice"), "16 to 72"),
        (
            "alice,with a space in it,,,".to_owned(),
            Some("alice"),
            "visible",
        ),
        (
            format!("alice,{KEY},\"a\u{202e}b\",,"),
            Some("alice"),
            "name",
        ),
        (format!("alice,{KEY},,soon,"), Some("alice"), "RFC 3339"),
        (
            format!("alice,{KEY},,2026-01-01T00:00:00Z,"),
            Some("alice"),
            "it ended at",
        ),
        (
            format!("alice,{KEY},,,a  b"),
            Some("alice"),
            "single spaces",
        ),
        (
            format!("alice,{KEY},,,email other"),
            Some("alice"),
            "no scope other",
        ),
        (
            "alice,{vault://env/key-of-alice},,,".to_owned(),
            Some("alice"),
            "vault",
        ),
        (
            format!("sk_live_whatever,{KEY},,,"),
            None,
            "looks like a key",
        ),
        (
            "alice,sk_live_abc123def456_abcdefghijklmnopqrstuvwxyzABCDEF123456,,,".to_owned(),
            Some("alice"),
            "wrong checksum",
        ),
    ] {
        let refusal = only_refusal(csv(&row));
        assert_eq!(refusal.place, "line 2");
        assert_eq!(refusal.owner.as_deref(), owner, "{row}");
        assert!(refusal.reason.contains(words), "{refusal:?}");
        for secret in [
            KEY,
            long.as_str(),
            "fifteen-letters",
            "sk_live_",
            "with a space",
        ] {
            assert!(!refusal.reason.contains(secret), "{refusal:?}");
        }
    }
}

#[test]
fn a_reference_that_nobody_resolved_is_no_key_and_keeps_no_other_out() {
    for reference in [
        "$SUPABASE_SERVICE_KEY",
        "$supabase_service_key",
        "${SUPABASE_SERVICE_KEY}",
        "${KEY_OF_ALICE:-none}",
        "${keyOfAliceOrBob}",
        "sk-live-${KEY_OF_ALICE}",
        "${{secrets.KEY_OF_ALICE}}",
        "$(KEY_OF_ALICE_HERE)",
        "#{KEY_OF_ALICE_HERE}#",
        "{{.Values.alice.key}}",
        "{{key_of_alice_here}}",
        "<%=key_of_alice_here%>",
        "((key-of-alice-here))",
        "[[key-of-alice-here]]",
        "%KEY_OF_ALICE_HERE%",
        "<KEY-OF-ALICE-HERE>",
        "@KEY_OF_ALICE_HERE@",
        "__KEY_OF_ALICE_HERE__",
        "op://vault/alice/key",
        "ref+vault://secret/alice#key",
    ] {
        let (imports, refused) = csv(&format!("alice,{reference},,,\nbob,{OTHER},,,\n"));
        assert_eq!(imports.len(), 1, "{reference}");
        assert_eq!(imports[0].owner, "bob");
        let [refusal] = refused.as_slice() else {
            panic!("{reference}: {refused:?}")
        };
        assert_eq!(refusal.place, "line 2");
        assert!(refusal.reason.contains("reference"), "{refusal:?}");
        assert!(!refusal.reason.contains(reference), "{refusal:?}");
    }
}

#[test]
fn a_key_of_any_visible_characters_is_no_reference() {
    for key in [
        "JvT1vQ9mZk3sXw7pLr2nYb5dGh8fCa4e",
        "5f0c1d0e-7a52-4f0e-9a57-0e4b8a6d1c11",
        "c2VjcmV0LWtleS1vZi1hbGljZQ==",
        "a+b/c+d/e+f/g+h/i==",
        "eyJhbGciOiJIUzI1NiJ9.e30.abc",
        "$ecretPassw0rdOfAlice",
        "$x{Q}(z)<w>%v%[u]#t",
        "p$A${9x}r(t)}w{{q>z",
        "100%sure-and-50%more",
        "<b>x</b>-y-z-1-2-3-4",
        "a@example.com:s3cret",
        "__proto__.__class__x",
        "$2y$not-a-hash-of-it",
        "//cdn.example.com/ab",
    ] {
        let (imports, refused) = csv(&format!("alice,\"{key}\",,,\n"));
        assert_eq!((imports.len(), refused.len()), (1, 0), "{key} {refused:?}");
    }
}

#[test]
fn a_key_that_a_template_left_as_no_text_keeps_no_other_out() {
    let text = format!(
        "consumers:\n- username: alice\n  keyauth_credentials:\n  \
         - key: {{{{ .Values.key }}}}\n  - key: [a, b]\n  - key: !ENV KEY_OF_ALICE\n  \
         - key: {OTHER}\n"
    );
    let (imports, refused) = rules().apply(kong::read(&text, by(OwnerField::Username)).unwrap());
    assert_eq!((imports.len(), refused.len()), (1, 3));
    let json = format!(
        r#"[{{"owner": "alice", "key": {{"from": "{KEY}"}}}}, {{"owner": "bob", "key": ["{KEY}"]}},
            {{"owner": "bob", "key": "{OTHER}"}}]"#
    );
    let (imports, refused) = rules().apply(table::read_json(&json).unwrap());
    assert_eq!((imports.len(), refused.len()), (1, 2));
    assert!(
        refused
            .iter()
            .all(|refusal| refusal.reason.contains("no text"))
    );
}

#[test]
fn what_is_there_twice_in_one_place_is_refused() {
    let twice = format!("owner,key,key\nalice,{KEY},{OTHER}\n");
    let error = table::read_csv(&twice).unwrap_err().to_string();
    assert!(error.contains("head \"key\" twice"), "{error}");
    for members in [
        format!(r#""owner": "alice", "owner": "bob", "key": "{KEY}""#),
        format!(r#""owner": "alice", "key": "{KEY}", "key": "{OTHER}""#),
    ] {
        assert!(table::read_json(&format!("[{{{members}}}]")).is_err());
    }
    for text in [
        format!(
            "consumers: []\nconsumers:\n- {{username: a, keyauth_credentials: [{{key: {KEY}}}]}}"
        ),
        format!(
            "consumers:\n- {{username: a, username: b, keyauth_credentials: [{{key: {KEY}}}]}}"
        ),
        format!("keyauth_credentials:\n- {{consumer: {{username: a, username: b}}, key: {KEY}}}"),
    ] {
        assert!(
            kong::read(&text, by(OwnerField::Username)).is_err(),
            "{text}"
        );
    }
}

#[test]
fn a_key_that_is_there_twice_counts_once_and_one_of_two_owners_never() {
    let (imports, refused) = csv(&format!("alice,{KEY},,,\nAlice,{KEY},,,\n"));
    assert_eq!(imports.len(), 1);
    assert_eq!(imports[0].place, "line 2");
    assert_eq!(refused[0].place, "line 3");
    assert!(refused[0].reason.contains("same key as at line 2"));
    let (imports, refused) = csv(&format!("alice,{KEY},,,\nbob,{OTHER},,,\nbob,{KEY},,,\n"));
    assert_eq!(imports.len(), 1);
    assert_eq!(imports[0].id, id_of(OTHER));
    let places: Vec<&str> = refused
        .iter()
        .map(|refusal| refusal.place.as_str())
        .collect();
    assert_eq!(places, ["line 2", "line 4"]);
    assert!(
        refused[0].reason.contains("\"bob\"'s as well (line 4)"),
        "{refused:?}"
    );
}

#[test]
fn a_file_without_right_heads_is_refused_whole_and_not_repeated() {
    for text in [
        format!("alice,{KEY}\n"),
        format!("owner;key\nalice;{KEY}\n"),
        format!("owner,key,expires\nalice,{KEY},\n"),
        format!("owner,name\nalice,{KEY}\n"),
        String::new(),
    ] {
        let error = table::read_csv(&text).unwrap_err().to_string();
        assert!(!error.contains(KEY), "{error}");
    }
}

#[test]
fn json_is_a_list_of_objects_with_these_members_alone() {
    let text = format!(
        r#"[{{"owner": "alice", "key": "{KEY}", "scopes": ["email", "orders"]}},
            {{"owner": "bob", "key": "{OTHER}", "scopes": "email", "name": "n"}},
            {{"owner": "carol"}}, {{"key": "{KEY}"}}, {{"owner": "dave", "key": 12}}]"#
    );
    let (imports, refused) = rules().apply(table::read_json(&text).unwrap());
    assert_eq!(imports.len(), 2);
    assert_eq!(imports[0].scopes.as_deref(), Some("email orders"));
    assert_eq!(imports[1].place, "entry 2");
    let reasons: Vec<(&str, &str)> = refused
        .iter()
        .map(|refusal| (refusal.place.as_str(), refusal.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            ("entry 3", "it has no key"),
            ("entry 4", "it names no owner"),
            ("entry 5", "its key is no text: quote it in the file"),
        ]
    );
    for text in [
        format!(r#"[{{"owner": "alice", "key": "{KEY}", "expires": "x"}}]"#),
        format!(r#"[{{"owner": ["{KEY}"], "key": "{KEY}"}}]"#),
        format!(r#"[["alice", "{KEY}"]]"#),
        format!(r#"["{KEY}"]"#),
        format!(r#"[{{"{KEY}": "alice"}}]"#),
        format!(r#"{{"owner": "alice", "key": "{KEY}"}}"#),
        format!("[{KEY}"),
    ] {
        let error = table::read_json(&text).unwrap_err().to_string();
        assert!(error.contains("line 1, column"), "{error}");
        assert!(!error.contains(KEY), "{error}");
    }
}

#[test]
fn a_map_names_owners_and_leaves_the_others_as_they_are() {
    let owners = table::read_map("from,to\nmobile,alice\n\"a, b\",carol\n").unwrap();
    let mut rules = rules();
    rules.owners = owners;
    let text = format!("owner,key\nmobile,{KEY}\nbob,{OTHER}\n");
    let (imports, _) = rules.apply(table::read_csv(&text).unwrap());
    assert_eq!(
        (imports[0].owner.as_str(), imports[1].owner.as_str()),
        ("alice", "bob")
    );
    for (text, words) in [
        ("mobile,alice\n", "heads from,to"),
        ("from,to\na\n", "line 2"),
        ("from,to\na,\n", "empty cell"),
        ("from,to\na,b\na,c\n", "twice"),
    ] {
        let error = table::read_map(text).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn keys_are_imported_owner_by_owner() {
    let rows = format!("bob,{KEY},,,\nalice,{OTHER},,,\nBob,old-key-number-three,,,\n");
    let (imports, _) = csv(&rows);
    let groups = by_owner(imports);
    let places: Vec<Vec<&str>> = groups
        .iter()
        .map(|group| group.iter().map(|import| import.place.as_str()).collect())
        .collect();
    assert_eq!(places, [vec!["line 2", "line 4"], vec!["line 3"]]);
}

#[test]
fn a_report_tells_each_refusal_and_counts_the_rest() {
    let mut report = Report {
        imported: vec![Done {
            place: "line 2".into(),
            owner: "alice".into(),
            id: "abc".into(),
        }],
        refused: vec![Refused::new("line 3", Some("bob"), "it has no key")],
        ..Report::default()
    };
    let text = report.text();
    assert!(text.contains("line 3  bob    it has no key"), "{text}");
    assert!(text.contains("1 would be imported, 0 are there already, 1 would be refused"));
    assert_eq!(report.document()["refused"][0]["reason"], "it has no key");
    report.applied = true;
    assert!(
        report
            .text()
            .contains("1 imported, 0 were there already, 1 refused")
    );
}
