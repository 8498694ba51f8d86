//! A listener that shares its keys out among several filters of one kind.
//!
//! A gateway has several filters when it configures one for each of its routes. They share
//! a worker, a Wasm machine and its entries in the host's shared data, and each has its own
//! limits on look-ups.

use serde_json::{Value, json};

use crate::gateway::{edit_fields, member};
use crate::owner::Key;

/// The number of filters: more than one core can keep busy.
pub(crate) const SHARES: usize = 16;

/// Keys in so many shares, one after the other: a key's first character names its share.
pub(crate) fn keys(count: usize) -> Vec<Key> {
    let id = |number: usize| format!("{:x}{number:011}", number % SHARES);
    (0..count).map(|number| Key::with_id(&id(number))).collect()
}

/// Makes filters of the listener's first one, and gives each its share.
pub(crate) fn share_out(listener: &mut Value) {
    let manager = member(listener, "/filter_chains/0/filters/0/typed_config");
    let filters = manager["http_filters"].as_array_mut().expect("filters");
    let filter = filters.remove(0);
    let name = |share: usize| format!("share_{share}");
    for share in (0..SHARES).rev() {
        let mut filter = filter.clone();
        filter["name"] = json!(name(share));
        filter["disabled"] = json!(true);
        // Envoy treats filters with equal configurations as one filter. No key is refused
        // here.
        edit_fields(
            &mut filter,
            &[("negative_ttl_seconds".to_owned(), json!(30 + share))],
        );
        filters.insert(0, filter);
    }
    let routes = member(manager, "/route_config/virtual_hosts/0/routes");
    let route = routes[0].clone();
    let beginning_with = |begin: &str| {
        let mut route = route.clone();
        route["match"]["headers"] =
            json!([{"name": "authorization", "string_match": {"prefix": begin}}]);
        route
    };
    // Envoy chooses again once a filter has replaced the key.
    let exchanged = beginning_with("Bearer ");
    let shares = (0..SHARES).map(|share| {
        let mut route = beginning_with(&format!("ApiKey sk_live_{share:x}"));
        route["typed_per_filter_config"] = json!({name(share): {
            "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {},
        }});
        route
    });
    *routes = std::iter::once(exchanged).chain(shares).collect();
}
