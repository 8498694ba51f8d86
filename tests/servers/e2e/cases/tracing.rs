//! A request's trace contains its calls to Keycloak.

use std::time::Duration;

use crate::client::Request;
use crate::gateway::Spec;
use crate::tracing::{self, Collector, TO_KEYCLOAK};
use crate::wait;
use crate::world::{Case, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    let case = Case::new(
        "tracing::calls_to_keycloak_are_in_the_requests_trace",
        calls,
    );
    vec![case.needs(Need::OwnEnvoy)]
}

fn calls(world: &World) {
    let collector = Collector::start();
    let address = collector.address;
    let spec = Spec::default()
        .field("keycloak_upstream", "traced")
        .edit(move |resources, port| tracing::add(resources, address, port));
    let gateway = world.start_gateway(&spec);
    let (_owner, key) = world.owner();
    let trace: [u8; 16] = *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36";
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = Request::orders().api_key(&key.text);
    let request = request.header("traceparent", parent);
    assert_eq!(gateway.target.send(&request).status, 200);
    // At least the look-up and the grant; the gateway may already hold its own token.
    wait::until("the spans of the calls", Duration::from_secs(30), || {
        let spans = collector.spans(&trace, TO_KEYCLOAK);
        (2..=3)
            .contains(&spans)
            .then_some(())
            .ok_or(format!("{spans} spans"))
    });
    gateway
        .log
        .expect(&[&key.id, "4bf92f3577b34da6a3ce929d0e0e4736"]);
}
