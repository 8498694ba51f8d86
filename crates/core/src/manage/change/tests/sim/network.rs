//! The way of a call to Keycloak and back, and its faults.

use rand::RngExt;

use super::faults::{Breakage, late_ms_max};
use super::run::{EPOCH, Event, Given, Run, Sent, TIMEOUT_MS};
use super::truth::ids;
use crate::clock::UnixMillis;
use crate::keycloak::Call;
use crate::manage::change::LOCK_PROVIDER;
use crate::manage::change::tests::keycloak::{GROUPS, OWNER, PROVIDER};

impl Run {
    pub(super) fn send(&mut self, writer: usize, serial: usize, call: Call) {
        let awaited = self.await_next(writer);
        self.note(|| {
            let last = call.path.rsplit('/').next().unwrap_or_default();
            format!("holder{serial:010} sends {} {last}", call.method)
        });
        let way_ms = self.faults.way_ms;
        let (there, back) = (self.range(1, way_ms), self.range(1, way_ms));
        let late_ms_max = match self.breakage {
            Some(Breakage::LaterThanAssumed) => 90_000,
            _ => late_ms_max(self.faults.skew_ms),
        };
        let late_ms = self.range(there, late_ms_max);
        let mut status = if self.chance(0.5) { 500 } else { 503 };
        let is_write = call.method == "PUT";
        let is_break = call.path.starts_with(GROUPS) || call.path.contains("break");
        self.writers[writer].at_the_break = is_break;
        let weight = if is_break || call.method == "DELETE" {
            5.0
        } else {
            1.0
        };
        let faults = self.faults.mixed(|| weight);
        let mut fate = self.dice.random::<f64>();
        let mut is = |probability: f64| {
            let struck = (0.0..probability).contains(&fate);
            fate -= probability;
            struck
        };
        let (mut arrives_in, mut answered) = (Some(there), Some((back, None)));
        let mut faulty = true;
        if is(faults.dropped) {
            (arrives_in, answered) = (None, None);
        } else if is(faults.answer_lost) {
            answered = None;
        } else if is(faults.refused) {
            arrives_in = None;
            answered = Some((back, Some(status)));
        } else if is(faults.profile) && is_write {
            (arrives_in, status) = (None, 400);
            answered = Some((back, Some(status)));
            faulty = false;
            self.count("refused by the profile");
        } else if is(faults.refused_after) {
            answered = Some((back, Some(status)));
        } else if is(faults.late) {
            arrives_in = Some(late_ms);
            if late_ms + back >= TIMEOUT_MS {
                answered = None;
            }
            self.count("late");
        } else {
            faulty = false;
        }
        self.fates[serial].faulty |= faulty;
        match (arrives_in, answered) {
            (None, Some((back, Some(status)))) => {
                let given = Given::Answer((status, String::new()));
                self.at(self.now + back, Event::Input(writer, awaited, given));
            }
            (_, None) => {
                let at = self.now + TIMEOUT_MS;
                self.at(at, Event::Input(writer, awaited, Given::Failed));
            }
            _ => {}
        }
        if let Some(arrives_in) = arrives_in {
            let basis = self.fates[serial].last_read.clone().unwrap_or_default();
            let sent = Sent {
                writer,
                awaited,
                serial,
                call,
                basis,
                answered,
            };
            if self.breakage == Some(Breakage::DeletedTwice) && sent.call.method == "DELETE" {
                let again = Sent {
                    answered: None,
                    ..sent.clone()
                };
                let later = arrives_in + self.range(1, 2_000);
                self.at(self.now + later, Event::Arrives(again));
            }
            self.at(self.now + arrives_in, Event::Arrives(sent));
        }
    }

    pub(super) fn arrives(&mut self, sent: &Sent) -> Result<(), String> {
        let before = matches!(sent.call.method, "PUT" | "DELETE").then(|| self.keycloak.clone());
        let answer = self.keycloak.answer(&sent.call);
        let furthest = self.writers.iter().map(|writer| writer.offset_ms).max();
        let now = UnixMillis(EPOCH + self.now + furthest.unwrap_or(0));
        let last = sent.call.path.rsplit('/').next().unwrap_or_default();
        let (serial, method, status) = (sent.serial, sent.call.method, answer.0);
        self.note(|| format!("holder{serial:010}: {status} for {method} {last}"));
        let fate = &mut self.fates[serial];
        match (sent.call.method, last) {
            ("GET", OWNER) => fate.last_read = Some(self.truth.read(&self.keycloak)),
            ("PUT", OWNER) => {
                let tally = &mut self.tally;
                self.truth.written(
                    fate,
                    &sent.basis,
                    &before.expect("it"),
                    &self.keycloak,
                    now,
                    tally,
                )?;
                for id in ids(&self.keycloak.owner().attributes) {
                    if !self.known.contains(&id) {
                        self.known.push(id);
                    }
                }
            }
            ("POST", PROVIDER) => self.count("linked"),
            ("DELETE", PROVIDER) if answer.0 == 204 => {
                self.truth.unlinked(&sent.basis, &self.keycloak)?;
                self.count("unlinked");
            }
            ("DELETE", LOCK_PROVIDER) => {
                let before = before.expect("it");
                let whose = before.links.get(LOCK_PROVIDER);
                if whose.is_some_and(|(id, _)| *id != self.fates[sent.serial].holder) {
                    self.count("broken");
                }
            }
            ("DELETE", group) if group.starts_with("group-") => {
                let before = before.expect("it");
                let whose = before.groups.iter().find(|found| found.id == group);
                let holder = &self.fates[sent.serial].holder;
                if whose.is_some_and(|group| !group.attributes.to_string().contains(holder)) {
                    self.count("breaker found dead");
                }
            }
            _ => {}
        }
        if let Some((back, status)) = sent.answered {
            let given = Given::Answer(match status {
                None => answer,
                Some(status) => (status, String::new()),
            });
            let event = Event::Input(sent.writer, sent.awaited, given);
            self.at(self.now + back, event);
        }
        Ok(())
    }
}
