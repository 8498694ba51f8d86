//! Warm requests of some listeners, in turns: requests a second, and the processor time of each.

use crate::load::{Keys, Order, Until, closed};
use crate::report::{Report, median};
use crate::targets::Targets;

/// The best turn of a round counts: other work of the machine can only slow a turn down. Turns
/// are short and many, so that such work spoils some of them and not all.
pub(crate) const ROUNDS: usize = 6;
const TURNS: usize = 12;
const CONNECTIONS: u32 = 16;

/// A load that takes turns with others.
pub(crate) struct Load<'a> {
    /// The name of its figures.
    pub(crate) name: &'static str,
    pub(crate) listener: &'static str,
    pub(crate) keys: &'a Keys,
    pub(crate) order: Order,
}

impl<'a> Load<'a> {
    /// These keys in turn, at the listener of this name.
    pub(crate) const fn new(name: &'static str, keys: &'a Keys) -> Self {
        Self {
            name,
            listener: name,
            keys,
            order: Order::Turn,
        }
    }
}

/// The figures of some loads, round by round.
pub(crate) struct Rates(Vec<Figures>);

struct Figures {
    name: &'static str,
    per_second: Vec<f64>,
    /// Microseconds of a processor for each request, of the same rounds.
    processor_us: Vec<f64>,
    /// Of all turns, not of the best ones.
    all_per_second: Vec<f64>,
}

impl Rates {
    /// All loads in turn, after one uncounted turn of each.
    pub(crate) fn measure(targets: &Targets, loads: &[Load<'_>], requests: u64) -> Self {
        let turn = |load: &Load<'_>| {
            let (port, until) = (targets.port(load.listener), Until::Requests(requests));
            let before = targets.processor_seconds();
            let done = closed(port, load.keys, load.order, CONNECTIONS, until);
            let spent = targets.processor_seconds() - before;
            (done.per_second, spent * 1e6 / done.requests)
        };
        let figures = loads.iter().map(|load| {
            turn(load);
            Figures {
                name: load.name,
                per_second: Vec::new(),
                processor_us: Vec::new(),
                all_per_second: Vec::new(),
            }
        });
        let mut figures: Vec<Figures> = figures.collect();
        for _ in 0..ROUNDS {
            let mut best = vec![(0.0_f64, f64::MAX); loads.len()];
            for _ in 0..TURNS {
                for ((load, figures), best) in loads.iter().zip(&mut figures).zip(&mut best) {
                    let (per_second, processor) = turn(load);
                    *best = (best.0.max(per_second), best.1.min(processor));
                    figures.all_per_second.push(per_second);
                }
            }
            for (figures, best) in figures.iter_mut().zip(best) {
                figures.per_second.push(best.0);
                figures.processor_us.push(best.1);
            }
        }
        Self(figures)
    }

    fn of(&self, name: &str) -> &Figures {
        let found = self.0.iter().find(|figures| figures.name == name);
        found.expect("a load")
    }

    /// The median rate of all turns.
    pub(crate) fn usual(&self, name: &str) -> f64 {
        median(&self.of(name).all_per_second)
    }

    /// One load's requests a second over another's, round by round.
    pub(crate) fn over(&self, name: &str, other: &str) -> Vec<f64> {
        ratios(&self.of(name).per_second, &self.of(other).per_second)
    }

    /// Another load's processor time over one's, round by round: the rates that the worker alone
    /// would allow.
    pub(crate) fn worker_over(&self, name: &str, other: &str) -> Vec<f64> {
        ratios(&self.of(other).processor_us, &self.of(name).processor_us)
    }

    /// Reports the figures of each load under its name, with this before it.
    pub(crate) fn report(&self, before: &str, report: &mut Report) {
        for figures in &self.0 {
            let name = format!("{before}{}_requests_per_second", figures.name);
            report.fact(&name, &figures.per_second);
        }
        for figures in &self.0 {
            let name = format!("{before}{}_processor_us", figures.name);
            report.fact(&name, &figures.processor_us);
        }
    }
}

/// Ratios, round by round.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    let pairs = ours.iter().zip(theirs);
    pairs.map(|(ours, theirs)| ours / theirs).collect()
}
