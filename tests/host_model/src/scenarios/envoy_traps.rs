//! Envoy's traps: in this model each misleads a naive filter, and not ours.

use crate::abi::{CALL_RESPONSE_HEADERS, Refusal, Status};
use crate::flights::Fate;
use crate::gateway::Gateway;
use crate::host::Answer;
use crate::keys::{key, plain_owner};
use crate::node::Profile;

use super::kong_traps::{callout, naive_host};

#[test]
fn a_naive_name_for_each_key_stays_for_ever() {
    let mut host = naive_host(Profile::Envoy);
    for number in 0..10_000_u32 {
        let name = format!("token:{number}");
        host.set_shared_data(name.as_bytes(), Some(b"t"), 0)
            .unwrap();
        // Setting no value does not delete either.
        host.set_shared_data(name.as_bytes(), None, 0).unwrap();
        assert_eq!(host.get_shared_data(name.as_bytes()).unwrap().0, b"");
    }
    assert_eq!(host.node.borrow().shared.keys().len(), 10_000);
}

#[test]
fn a_naive_lock_by_a_first_write_is_taken_twice() {
    let mut host = naive_host(Profile::Envoy);
    host.set_shared_data(b"lock", Some(b"worker 1"), 0).unwrap();
    host.set_shared_data(b"lock", Some(b"worker 2"), 0).unwrap();
    assert_eq!(host.get_shared_data(b"lock").unwrap().0, b"worker 2");
    // With the version that it read, the second writer learns of the first.
    let (_, version) = host.get_shared_data(b"lock").unwrap();
    host.set_shared_data(b"lock", Some(b"worker 3"), version)
        .unwrap();
    let late = host.set_shared_data(b"lock", Some(b"worker 4"), version);
    assert_eq!(late, Err(Refusal::Status(Status::CasMismatch)));
}

#[test]
fn a_naive_question_for_a_failed_callouts_headers_is_an_error() {
    let mut host = naive_host(Profile::Envoy);
    host.answer = Some(Answer::Failed("timeout"));
    for name in [&b":status"[..], b":dispatch_status"] {
        // The SDK does not expect this error, and panics.
        let asked = host.header_value(CALL_RESPONSE_HEADERS, name);
        assert_eq!(asked, Err(Refusal::Status(Status::BadArgument)));
    }
}

#[test]
fn a_failed_callout_is_a_503_and_its_headers_are_not_asked_for() {
    for fate in [Fate::Reset, Fate::TimesOut] {
        let mut gateway = Gateway::new(Profile::Envoy, vec![plain_owner("alice", &key(1))]);
        gateway.fate = Box::new(move |_, _| fate.clone());
        gateway.ask(&key(1)).expect_unavailable();
    }
}

#[test]
fn a_naive_address_is_no_cluster() {
    let mut host = naive_host(Profile::Envoy);
    let sent = host.http_call(callout("keycloak.example.com:443"));
    assert_eq!(sent, Err(Refusal::Status(Status::BadArgument)));
    assert!(host.http_call(callout("keycloak")).is_ok());
}

#[test]
fn a_cluster_that_is_not_there_is_a_503_and_said() {
    let mut gateway = Gateway::new(Profile::Envoy, vec![plain_owner("alice", &key(1))]);
    gateway.node.borrow_mut().clusters.clear();
    gateway.ask(&key(1)).expect_unavailable();
    assert!(gateway.logged("no such upstream"));
}

#[test]
fn what_one_machine_remembers_naively_the_others_do_not_know() {
    let mut gateway = Gateway::new(Profile::Envoy, vec![plain_owner("alice", &key(1))]);
    gateway.add_worker();
    // A machine for each worker: they share only the host's shared data.
    assert_eq!(gateway.vms().count(), 2);
    gateway.ask(&key(1));
    gateway.node.borrow_mut().shared.clear();
    let asked = gateway.flights.total();
    assert_eq!(gateway.ask_worker(1, &key(1)).subject(), "alice");
    assert!(gateway.flights.total() > asked);
}
