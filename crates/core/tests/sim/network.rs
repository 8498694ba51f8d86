//! The network between a gateway and Keycloak, and the address that yields go to.

use apikeys_core::api_key::record::index_value;
use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::Call;

use super::callout::{Asks, Delivered, deliver};
use super::faults::Fault;
use super::keycloak::{Reply, claims};
use super::request::Request;
use super::truth::Issued;
use super::world::{Event, Fed, World};

/// The role may be lost between two calls of one exchange, so that neither shows it.
const UNNOTICED_MS: u64 = 1000;

impl World {
    pub(super) fn dispatch(&mut self, id: u64, step: u32, call: Call, timeout_ms: u64) {
        let asks = Asks::of(&call);
        self.note(format_args!("#{id} asks: {}, {timeout_ms} ms", asks.kind()));
        let said = format!("{call:?} {}", call.path);
        self.say(&said);
        let (faults, dice) = (&self.faults, &mut self.dice);
        let mut hits = |fault| faults.hits(fault, dice);
        let [refused, lost, slow, reset] = [
            Fault::CalloutRefused,
            Fault::CalloutLost,
            Fault::CalloutSlow,
            Fault::CalloutReset,
        ]
        .map(&mut hits);
        let way = if slow {
            self.dice.range(timeout_ms / 3, timeout_ms * 5 / 4)
        } else {
            self.dice.range(1, 8)
        };
        let mut fail = |after, why| {
            let fed = Fed::Failed(why);
            self.push(self.now + after, Event::Answer { id, step, fed });
        };
        if refused {
            return fail(0, "the host could not send it");
        }
        fail(timeout_ms, "timed out");
        if reset {
            let after = self.dice.range(1, timeout_ms);
            let fed = Fed::Failed("connection reset");
            self.push(self.now + after, Event::Answer { id, step, fed });
        }
        if !lost {
            self.push(
                self.now + way,
                Event::Arrive {
                    id,
                    step,
                    asks,
                    call,
                },
            );
        }
    }

    /// A callout comes to Keycloak, which answers by the truth of this moment.
    pub(super) fn arrive(&mut self, id: u64, step: u32, asks: &Asks, call: &Call) {
        let back = self.now + self.dice.range(1, 8);
        let Some(request) = self.request_or_gone(id) else {
            return;
        };
        let at = self.routes[request.route].realm;
        if self.now < self.realms[at].down_until {
            let fed = Fed::Failed("connection refused");
            return self.push(back, Event::Answer { id, step, fed });
        }
        let delivered = self.serve(at, asks, call);
        self.tally.poisoned += u32::from(delivered.poison.is_some());
        self.note(format_args!(
            "#{id} is answered {}{}",
            delivered.status,
            delivered
                .poison
                .map_or(String::new(), |poison| format!(" with {poison}"))
        ));
        if !self.faults.hits(Fault::AnswerLost, &mut self.dice) {
            let fed = Fed::Answer(delivered);
            self.push(back, Event::Answer { id, step, fed });
        }
    }

    /// Keycloak carries out a callout; gives its answer as the network leaves it.
    pub(super) fn serve(&mut self, at: usize, asks: &Asks, call: &Call) -> Delivered {
        let outlives = self.faults.hits(Fault::TokenOutlivesKey, &mut self.dice);
        let realm = &mut self.realms[at];
        realm.keycloak.limits_tokens = !outlives;
        let reply = realm.keycloak.answer(call, UnixMillis(self.now));
        self.tally.called(asks.kind());
        if let Asks::Grant { .. } = asks
            && reply.0 == 200
        {
            self.issue(at, &reply);
        }
        let other = self.last.get(&(at, asks.kind()));
        let with = (&self.faults, &mut self.dice);
        let keycloak = &self.realms[at].keycloak;
        let delivered = deliver(asks, reply.clone(), other, keycloak, with);
        if let Asks::Lookup(key_id) = asks
            && delivered.body.as_deref() == Some(b"[]")
        {
            self.note_nobody(at, key_id);
        }
        self.last.insert((at, asks.kind()), (asks.clone(), reply));
        delivered
    }

    /// Notes that Keycloak said that nobody owns a key. Keycloak is right, unless the gateway's
    /// account lacks the role to see the owner. Nobody can have noticed a role lost a moment
    /// before.
    fn note_nobody(&mut self, at: usize, key_id: &str) {
        let realm = &self.realms[at];
        let has_role = realm.keycloak.management_roles.contains(&"view-users");
        let unnoticed = self.now.saturating_sub(realm.role_lost_at) <= UNNOTICED_MS;
        let index = index_value(key_id);
        let mut indexed = realm.keycloak.users.iter().flat_map(|user| {
            let values = user.attributes.get("apiKeyIndex");
            values.into_iter().flatten()
        });
        if (has_role || unnoticed) && !indexed.any(|value| *value == index) {
            let key = (at, key_id.to_owned());
            self.truth.nobody.insert(key, self.now);
        }
    }

    fn request_or_gone(&self, id: u64) -> Option<Request> {
        self.in_flight.get(&id).map(|flight| flight.request.clone())
    }

    /// Notes the owner of a token.
    fn issue(&mut self, realm: usize, reply: &Reply) {
        let answer: serde_json::Value = serde_json::from_slice(&reply.1).unwrap();
        let token = answer["access_token"].as_str().unwrap();
        let claims = claims(token);
        let issued = Issued {
            realm,
            subject: claims["sub"].as_str().unwrap().to_owned(),
            exp: claims["exp"].as_u64().unwrap() * 1000,
            life: answer["expires_in"].as_u64().unwrap(),
        };
        self.truth.tokens.insert(token.to_owned(), issued);
    }

    pub(super) fn wait(&mut self, id: u64, step: u32, wait_ms: Option<u64>, timeout_ms: u64) {
        let failed = self.faults.hits(Fault::YieldFailed, &mut self.dice);
        let slow = self.faults.hits(Fault::YieldSlow, &mut self.dice);
        let late = self.dice.range(1, 8_000);
        let after = wait_ms.unwrap_or(1) + if slow { late } else { 0 };
        self.push(
            self.now + timeout_ms,
            Event::Answer {
                id,
                step,
                fed: Fed::Failed("timed out"),
            },
        );
        let turn = Delivered {
            status: 204,
            body: Some(Vec::new()),
            poison: None,
            rounds: None,
        };
        let full = Delivered {
            status: 503,
            ..turn.clone()
        };
        let fed = Fed::Answer(if failed { full } else { turn });
        self.push(self.now + after, Event::Answer { id, step, fed });
    }
}
