//! The built filter in each host as a rig of the scenarios that it has in common with the core.

use serde_json::{Value, json};
use test_kit::scenarios::{self, Rig};

use crate::abi::{pairs, value_of};
use crate::flights::{Asked, Fate};
use crate::gateway::{Gateway, Outcome};
use crate::keycloak_adapter::{FakeKeycloak, User};
use crate::node::Profile;

/// A gateway of one of both hosts, judged at its end as in all scenarios.
struct Hosted<const KONG: bool>(Gateway);

impl<const KONG: bool> Rig for Hosted<KONG> {
    fn with(users: Vec<User>, changes: &Value) -> Self {
        let profile = if KONG { Profile::Kong } else { Profile::Envoy };
        // As in the core's rig: nobody ticks here, so nobody polls.
        let mut fields = json!({ "revocation_poll_seconds": 0 });
        for (field, value) in changes.as_object().into_iter().flatten() {
            fields[field] = value.clone();
        }
        Self(Gateway::with(profile, users, &fields))
    }

    fn add_worker(&mut self) -> usize {
        self.0.add_worker()
    }

    fn send(&mut self, worker: usize, headers: &[(&str, &str)]) -> scenarios::Outcome {
        let request = self.0.send(worker, 0, &pairs(headers));
        match self.0.finish(request) {
            Outcome::Forwarded(mut headers) => {
                let mut sent = self.0.requests[request].sent.clone();
                headers.sort();
                sent.sort();
                if headers == sent {
                    return scenarios::Outcome::Passed;
                }
                let bearer = value_of(&headers, "authorization").expect("a token");
                let token = bearer.strip_prefix(b"Bearer ").expect("a token");
                scenarios::Outcome::Forwarded(String::from_utf8(token.to_vec()).unwrap())
            }
            outcome => {
                let (status, code) = outcome.refusal();
                scenarios::Outcome::Rejected(u16::try_from(status).unwrap(), code)
            }
        }
    }

    fn keycloak(&mut self, change: impl FnOnce(&mut FakeKeycloak)) {
        let mut keycloaks = self.0.keycloaks.borrow_mut();
        let realm = keycloaks.realm("demo");
        change(realm);
        self.0.truth.learn("demo", &realm.users);
    }

    fn fates(&mut self, mut fate: impl FnMut(scenarios::Asked, u32) -> scenarios::Fate + 'static) {
        self.0.fate = Box::new(move |asked, count| {
            let asked = match asked {
                Asked::ServiceToken => scenarios::Asked::ServiceToken,
                Asked::Lookup => scenarios::Asked::Lookup,
                Asked::Grant => scenarios::Asked::Grant,
                Asked::Yield => scenarios::Asked::Turn,
                _ => return Fate::Answered,
            };
            match fate(asked, count) {
                scenarios::Fate::Answered => Fate::Answered,
                scenarios::Fate::Changed(change) => Fate::Changed(change),
                scenarios::Fate::Status(status, body) => Fate::Status(status, body),
                scenarios::Fate::Reset => Fate::Reset,
            }
        });
    }

    fn count(&self, asked: scenarios::Asked) -> u32 {
        let count = self.0.count(match asked {
            scenarios::Asked::ServiceToken => Asked::ServiceToken,
            scenarios::Asked::Lookup => Asked::Lookup,
            scenarios::Asked::Grant => Asked::Grant,
            scenarios::Asked::Turn => Asked::Yield,
        });
        u32::try_from(count).unwrap()
    }

    fn pass(&mut self, ms: u64) {
        self.0.pass(ms);
    }

    fn logged(&self, text: &str) -> bool {
        self.0.logged(text)
    }

    fn come_from(&mut self, address: &str) {
        self.0.node.borrow_mut().address = Some(address.to_owned());
    }

    fn addresses_asked(&self) -> usize {
        let node = self.0.node.borrow();
        let asked = node.properties_asked.iter();
        asked.filter(|path| *path == b"source\0address").count()
    }

    fn let_keys_pass(&mut self) {
        self.0.allowed.keys_upstream = true;
    }
}

mod on_kong {
    test_kit::run_scenarios!(super::Hosted<true>);
}

mod on_envoy {
    test_kit::run_scenarios!(super::Hosted<false>);
}
