//! One request at a time changes an owner's keys, within a worker.
//!
//! The lock that keeps writers apart is Keycloak's ([`super::change`]). A writer that waits for
//! it asks again and again, and anybody with a token can send a crowd of requests for one
//! owner: each would make many calls to Keycloak. In a worker they wait for each other instead,
//! in the order of their arrival.

use std::collections::{BTreeMap, VecDeque};

use crate::calls::ExchangeId;

/// The requests that change each owner's keys; the first in line is at work. They are no more
/// than the pending requests, and each leaves by [`Owners::leave`] at any end.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<String, VecDeque<ExchangeId>>);

impl Owners {
    /// The number of requests before this one, which joins the queue if it is new; 0 when it is
    /// its turn.
    pub(super) fn before(&mut self, owner_id: &str, id: ExchangeId) -> usize {
        let queue = self.0.entry(owner_id.to_owned()).or_default();
        queue
            .iter()
            .position(|known| *known == id)
            .unwrap_or_else(|| {
                queue.push_back(id);
                queue.len() - 1
            })
    }

    /// Lets a request go: those behind it move up.
    pub(super) fn leave(&mut self, id: ExchangeId) {
        self.0.retain(|_, queue| {
            queue.retain(|known| *known != id);
            !queue.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_in_order_and_whoever_leaves_holds_nobody_up() {
        let mut owners = Owners::default();
        assert_eq!([1, 2, 3, 1].map(|id| owners.before("a", id)), [0, 1, 2, 0]);
        assert_eq!(owners.before("b", 4), 0, "another owner's");
        owners.leave(2);
        assert_eq!([1, 3].map(|id| owners.before("a", id)), [0, 1]);
        owners.leave(1);
        owners.leave(1);
        assert_eq!(owners.before("a", 3), 0);
        for id in [3, 4] {
            owners.leave(id);
        }
        assert!(
            owners.0.is_empty(),
            "nothing is kept of whom nobody changes"
        );
    }
}
