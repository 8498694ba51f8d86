//! Many requests at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Request, Response, Target};
use crate::gateway::{Gateway, Spec};
use crate::owner::{Key, Record};
use crate::wait;
use crate::world::{Case, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("load::fifty_first_uses_of_one_key_verify_it_once", fifty)
            .needs(Need::OwnGateway),
        Case::new("load::forty_new_keys_at_once_lose_no_answer", forty_new),
        Case::new("load::twenty_cold_keys_do_not_stop_a_warm_one", twenty_cold),
        Case::new(
            "load::wrong_secrets_of_one_id_do_not_keep_others_out",
            crowd_at_one_id,
        ),
        Case::new(
            "load::clients_that_go_away_leave_nothing_behind",
            gone_clients,
        ),
    ]
}

/// A gateway with one worker if the suite can start one, else the given gateway.
struct Loaded<'a> {
    target: Target,
    _own: Option<Gateway<'a>>,
}

impl<'a> Loaded<'a> {
    fn new(world: &'a World) -> Self {
        let own = world
            .has_own_gateways()
            .then(|| world.start_gateway(&Spec::default()));
        let target = own.as_ref().map_or(&world.gateway, |own| &own.target);
        Self {
            target: target.clone(),
            _own: own,
        }
    }
}

/// Sends all requests at the same moment, each on a connection of its own.
fn at_once(target: &Target, requests: Vec<Request>) -> Vec<Response> {
    let barrier = Barrier::new(requests.len());
    thread::scope(|scope| {
        let send = |request: Request| {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut connection = target.connect();
                barrier.wait();
                connection.send(&request)
            })
        };
        let threads: Vec<_> = requests.into_iter().map(send).collect();
        let answers = threads.into_iter().map(|thread| thread.join());
        answers.map(|answer| answer.expect("an answer")).collect()
    })
}

fn fifty(world: &World) {
    let proxy = world.proxy();
    let gateway = world.start_gateway(&Spec::default().through(&proxy));
    let key = Key::random();
    let owner = world.owner_of(&[Record::bcrypt(&key, "2b", 10)]);
    let answers = at_once(
        &gateway.target,
        vec![Request::orders().api_key(&key.text); 50],
    );
    for answer in &answers {
        assert_eq!(answer.orders().subject, owner.id);
    }
    let counts = proxy.counts();
    assert_eq!((counts.look_up, counts.grant), (1, 1));
    // One for each of its two filters, and one for the self-check of each.
    assert!(counts.service_token <= 4, "{counts:?}");
    let id = format!(r#""key_id":"{}""#, key.id);
    gateway.log.expect(&[&id, r#""source":"first_use""#]);
    assert_eq!(
        gateway.log.lines(&[&id, r#""source":"first_use""#]).len(),
        1
    );
}

/// Each needs its own calls to Keycloak, all at the same time. If Keycloak takes too long for
/// so many, the answer is 503, and the client may try again.
fn forty_new(world: &World) {
    let keys: Vec<Key> = (0..40).map(|_| Key::random()).collect();
    let records: Vec<Record> = keys.iter().map(Record::sha256).collect();
    let owner = world.owner_of(&records);
    let requests = keys.iter().map(|key| Request::orders().api_key(&key.text));
    let answers = at_once(&world.gateway, requests.collect());
    for (key, first) in keys.iter().zip(answers) {
        let mut answer = Some(first);
        wait::until("the key works", Duration::from_secs(30), || {
            let answer = answer
                .take()
                .unwrap_or_else(|| world.gateway.orders(&key.text));
            if answer.status == 503 {
                answer.unavailable();
                return Err(answer.describe());
            }
            assert_eq!(answer.orders().subject, owner.id);
            Ok(())
        });
    }
}

/// An id is public: a client that knows one can send secrets for it, and refusing each takes
/// a bcrypt.
fn crowd_at_one_id(world: &World) {
    let gateway = Loaded::new(world);
    let (known, other) = (Key::random(), Key::random());
    world.owner_of(&[Record::bcrypt(&known, "2b", 10)]);
    let owner = world.owner_of(&[Record::bcrypt(&other, "2b", 10)]);
    let mut requests: Vec<Request> = (0..80)
        .map(|_| Request::orders().api_key(&Key::with_id(&known.id).text))
        .collect();
    requests.push(Request::orders().api_key(&other.text));
    let mut answers = at_once(&gateway.target, requests);
    let others = answers.pop().expect("the other's answer");
    assert_eq!(others.orders().subject, owner.id);
    for answer in answers {
        match answer.status {
            503 => answer.problem(503, "overloaded"),
            _ => answer.invalid_api_key(),
        };
    }
    gateway.target.orders(&known.text).orders();
}

fn twenty_cold(world: &World) {
    let gateway = Loaded::new(world);
    let (warm_owner, warm) = world.owner();
    gateway.target.orders(&warm.text).orders();
    let keys: Vec<Key> = (0..20).map(|_| Key::random()).collect();
    let records: Vec<Record> = keys
        .iter()
        .map(|key| Record::bcrypt(key, "2b", 10))
        .collect();
    let owner = world.owner_of(&records);

    let idle = warm_load(&gateway.target, &warm, || {
        thread::sleep(Duration::from_millis(500))
    });
    let mut cold = Vec::new();
    let busy = warm_load(&gateway.target, &warm, || {
        let requests = keys.iter().map(|key| Request::orders().api_key(&key.text));
        cold = at_once(&gateway.target, requests.collect());
    });
    for answer in &cold {
        assert_eq!(answer.orders().subject, owner.id);
    }
    for answer in idle.iter().chain(&busy) {
        assert_eq!(answer.orders().subject, warm_owner.id);
    }
    let slowest = cold.iter().map(|answer| answer.took).max().unwrap();
    println!("\n    warm alone: {}", percentiles(&idle));
    println!(
        "    warm beside 20 cold keys: {}; slowest cold: {slowest:?}",
        percentiles(&busy)
    );
}

/// The answers to requests with a warm key on one connection, while something happens.
fn warm_load(target: &Target, key: &Key, happens: impl FnOnce()) -> Vec<Response> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut connection = target.connect();
            let request = Request::orders().api_key(&key.text);
            let mut answers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                answers.push(connection.send(&request));
            }
            answers
        });
        happens();
        over.store(true, Ordering::Relaxed);
        load.join().expect("answers")
    })
}

fn percentiles(answers: &[Response]) -> String {
    let mut times: Vec<Duration> = answers.iter().map(|answer| answer.took).collect();
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let (p50, p99, max) = (at(50), at(99), at(100));
    format!(
        "{} requests, p50 {p50:?}, p99 {p99:?}, max {max:?}",
        times.len()
    )
}

fn gone_clients(world: &World) {
    let gateway = Loaded::new(world);
    let keys: Vec<Key> = (0..5).map(|_| Key::random()).collect();
    let records: Vec<Record> = keys
        .iter()
        .map(|key| Record::bcrypt(key, "2b", 10))
        .collect();
    let owner = world.owner_of(&records);
    for key in &keys {
        gateway
            .target
            .connect()
            .send_only(&Request::orders().api_key(&key.text));
    }
    // The gate that they held is free; otherwise this would wait for them.
    for key in &keys {
        let orders = gateway.target.orders(&key.text).orders();
        assert_eq!(orders.subject, owner.id);
    }
}
