//! The faults of a run, each with its name and its probability.
//!
//! A run draws its faults and their rates: a run with a few faults reaches further than one in
//! which everything fails.

use std::cell::Cell;

use super::dice::Dice;

/// A fault. Each group says the unit of its probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    // By callout.
    /// The host does not take the callout.
    CalloutRefused,
    /// It never comes to Keycloak.
    CalloutLost,
    /// Keycloak gets it, and its answer never comes.
    AnswerLost,
    /// It takes from a good part of its time-out to beyond it.
    CalloutSlow,
    /// The connection is reset while it waits.
    CalloutReset,
    /// The answer ends in its middle.
    AnswerTruncated,
    /// Another status: 401, 403, 404, 429, 500 or 503, with a body of its own.
    AnswerStatus,
    /// A redirection to a page.
    AnswerRedirected,
    /// An answer too large to be read.
    AnswerHuge,
    /// The answer that another request was to get.
    AnswerOfAnother,
    /// Another user, as from a server that ignores the query.
    ForeignOwner,
    /// Two users for one id.
    TwoOwners,
    /// The id in capital letters.
    OwnerInCapitals,
    /// A token of another subject.
    ForeignSubject,
    /// The realm does not end a token with its key.
    TokenOutlivesKey,
    /// A token of another realm.
    ForeignIssuer,
    // By yield.
    /// The address that yields go to does not answer.
    YieldFailed,
    /// It takes its time.
    YieldSlow,
    // By access to shared data.
    /// A read gives the head of a new value and the tail of an old one.
    TornRead,
    /// A read gives nothing.
    ReadFailed,
    /// Another worker wrote between the read and the write.
    CasRace,
    // By request.
    /// The client hangs up while it waits.
    HangUp,
    // By happening, of which a run has some dozens.
    /// A node's clock steps forwards.
    ClockForwards,
    /// A node's clock steps backwards.
    ClockBackwards,
    /// A worker dies with all that it holds, and another takes its place.
    WorkerCrash,
    /// A node restarts: its shared data is gone as well.
    NodeRestart,
    /// Entries leave the shared zone.
    Eviction,
    /// Another filter writes where ours does.
    ForeignWrite,
    /// Keycloak is away for a while.
    Outage,
    /// Keycloak takes no service token any more that it gave.
    TokensRevoked,
    /// The gateway's account loses its role for a while.
    RoleLost,
    // By edit of an administrator.
    /// No event tells of it.
    EventLost,
    /// Its event comes late.
    EventLate,
    /// Its event comes twice.
    EventTwice,
}

impl Fault {
    pub const ALL: [Self; 34] = [
        Self::CalloutRefused,
        Self::CalloutLost,
        Self::AnswerLost,
        Self::CalloutSlow,
        Self::CalloutReset,
        Self::AnswerTruncated,
        Self::AnswerStatus,
        Self::AnswerRedirected,
        Self::AnswerHuge,
        Self::AnswerOfAnother,
        Self::ForeignOwner,
        Self::TwoOwners,
        Self::OwnerInCapitals,
        Self::ForeignSubject,
        Self::TokenOutlivesKey,
        Self::ForeignIssuer,
        Self::YieldFailed,
        Self::YieldSlow,
        Self::TornRead,
        Self::ReadFailed,
        Self::CasRace,
        Self::HangUp,
        Self::ClockForwards,
        Self::ClockBackwards,
        Self::WorkerCrash,
        Self::NodeRestart,
        Self::Eviction,
        Self::ForeignWrite,
        Self::Outage,
        Self::TokensRevoked,
        Self::RoleLost,
        Self::EventLost,
        Self::EventLate,
        Self::EventTwice,
    ];

    /// Its name, as in `SIM_FAULTS=torn_read=0.5`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for (at, letter) in format!("{self:?}").char_indices() {
            if letter.is_ascii_uppercase() && at > 0 {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// The probability of each fault, and the number of times that it struck.
#[derive(Debug, Clone)]
pub struct Faults {
    probabilities: [f64; Fault::ALL.len()],
    struck: [Cell<u64>; Fault::ALL.len()],
}

impl Faults {
    pub fn none() -> Self {
        Self {
            probabilities: [0.0; Fault::ALL.len()],
            struck: std::array::from_fn(|_| Cell::new(0)),
        }
    }

    /// No faults in every tenth run; else some of them, seldom or often.
    pub fn drawn(dice: &mut Dice) -> Self {
        let mut faults = Self::none();
        let calm = dice.chance(0.1);
        for probability in &mut faults.probabilities {
            let (on, how_often) = (dice.chance(0.25), dice.pick(&[0.02, 0.1, 0.3]));
            if on && !calm {
                *probability = how_often;
            }
        }
        faults
    }

    /// Faults named in a text like `torn_read=0.5,outage=0` take the place of the drawn ones.
    ///
    /// # Errors
    ///
    /// The fault of the text.
    pub fn with(mut self, named: &str) -> Result<Self, String> {
        for pair in named.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or(format!("SIM_FAULTS: '{pair}' is not NAME=PROBABILITY"))?;
            let fault = Fault::by_name(name).ok_or_else(|| {
                let names = Fault::ALL.map(Fault::name).join(" ");
                format!("SIM_FAULTS: there is no fault '{name}'; there are: {names}")
            })?;
            self.probabilities[fault as usize] = value
                .parse()
                .ok()
                .filter(|probability| (0.0..=1.0).contains(probability))
                .ok_or(format!("SIM_FAULTS: '{value}' is not from 0 to 1"))?;
        }
        Ok(self)
    }

    pub fn of(&self, fault: Fault) -> f64 {
        self.probabilities[fault as usize]
    }

    pub fn hits(&self, fault: Fault, dice: &mut Dice) -> bool {
        let hits = dice.chance(self.of(fault));
        let struck = &self.struck[fault as usize];
        struck.set(struck.get() + u64::from(hits));
        hits
    }

    /// The number of times that each fault struck so far.
    pub fn struck(&self) -> impl Iterator<Item = (Fault, u64)> {
        let counts = self.struck.iter().map(Cell::get);
        Fault::ALL.into_iter().zip(counts)
    }

    pub fn is_calm(&self) -> bool {
        self.probabilities
            .iter()
            .all(|probability| *probability == 0.0)
    }
}

#[test]
fn each_fault_has_a_place_of_its_own_and_a_name_that_finds_it() {
    for (at, fault) in Fault::ALL.into_iter().enumerate() {
        assert_eq!(fault as usize, at, "{fault:?}");
        assert_eq!(Fault::by_name(&fault.name()), Some(fault));
    }
    let some = Faults::none().with("torn_read=0.5,outage=1").unwrap();
    assert_eq!(
        (some.of(Fault::TornRead), some.of(Fault::Outage)),
        (0.5, 1.0)
    );
    for wrong in ["torn_read", "torn_read=2", "torn=0.1"] {
        assert!(Faults::none().with(wrong).is_err(), "{wrong}");
    }
}
