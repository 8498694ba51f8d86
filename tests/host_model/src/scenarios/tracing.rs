//! A request's trace goes on to Keycloak, and nothing else of its headers.

use crate::abi::value_of;
use crate::flights::Asked;
use crate::gateway::Gateway;
use crate::keys::{key, owner};
use crate::node::BOTH;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The trace header of each call to Keycloak, and the number of yields that have one.
fn said(gateway: &Gateway, name: &str) -> (Vec<Option<String>>, usize) {
    let node = gateway.node.borrow();
    let (mut calls, mut yields) = (Vec::new(), 0);
    for sent in &node.sent {
        let value = value_of(&sent.headers, name);
        let value = value.map(|value| String::from_utf8(value.to_vec()).unwrap());
        match value_of(&sent.headers, ":authority") {
            Some(b"yield") => yields += usize::from(value.is_some()),
            _ => calls.push(value),
        }
    }
    (calls, yields)
}

#[test]
fn the_trace_of_a_request_goes_on_to_keycloak() {
    for profile in BOTH {
        let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
        let state = "vendor=1,other@x=2";
        gateway
            .ask_with(&[
                ("x-api-key", &key(1)),
                ("traceparent", PARENT),
                ("tracestate", state),
            ])
            .subject();
        assert_eq!(gateway.count(Asked::Grant), 1);
        let parents = said(&gateway, "traceparent");
        assert_eq!(parents, (vec![Some(PARENT.to_owned()); 3], 0));
        let states = said(&gateway, "tracestate");
        assert_eq!(states, (vec![Some(state.to_owned()); 3], 0));
        assert!(gateway.logged(r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736""#));
    }
}

#[test]
fn what_is_no_trace_or_holds_a_key_goes_nowhere() {
    let bad_parent = "00-XX";
    let with_key = format!("vendor={}", key(1));
    for profile in BOTH {
        for (parent, state, parents) in [
            (bad_parent, "vendor=1", 0),
            (PARENT, "vendor=a\u{7f}", 3),
            (PARENT, with_key.as_str(), 3),
        ] {
            let mut gateway = Gateway::new(profile, vec![owner("alice", &key(1))]);
            let headers = [
                ("x-api-key", key(1)),
                ("traceparent", parent.to_owned()),
                ("tracestate", state.to_owned()),
            ];
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            gateway.ask_with(&headers).subject();
            let said_parents = said(&gateway, "traceparent").0;
            assert_eq!(said_parents.iter().flatten().count(), parents, "{state}");
            assert_eq!(said(&gateway, "tracestate").0.iter().flatten().count(), 0);
        }
    }
}
