//! `apikeys signing-key`: replaces the gateway's key without refusing a request.
//!
//! `new` lets the realm trust two keys, told apart by their `kid`; the gateways get the new
//! key at any later time; `retire` removes the old key once no gateway signs with it. Each
//! command reads first, changes only the differences, reads again, and can be repeated.

mod places;
mod seen;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::args::{KeyInRealmArgs, RetireArgs, SigningKeyArgs, SigningKeyCommand};
use crate::keycloak_admin::KeycloakAdmin;
use crate::output;
use crate::setup::clients::{Duty, WantedClient};
use crate::setup::plan::Wanted;
use crate::setup::signing_key_file::SigningKeyFile;
use crate::setup::verify::{self, Proof, Signer};
use places::Places;
use seen::Seen;

pub(crate) fn run(args: &SigningKeyArgs) -> Result<()> {
    match &args.command {
        SigningKeyCommand::New(args) => new(args),
        SigningKeyCommand::Activate(args) => activate(args),
        SigningKeyCommand::Retire(args) => retire(args),
    }
}

/// A key, its realm, and the report on both at the end.
struct Rotation<'a> {
    args: &'a KeyInRealmArgs,
    file: SigningKeyFile,
    jwk: Value,
    admin: KeycloakAdmin,
    told: Map<String, Value>,
}

impl<'a> Rotation<'a> {
    fn open(args: &'a KeyInRealmArgs) -> Result<Self> {
        let file = SigningKeyFile::open(&args.signing_key_file)?;
        Ok(Self {
            args,
            jwk: file.key().public_jwk(),
            file,
            admin: args.connection.sign_in()?,
            told: Map::new(),
        })
    }

    /// The same, for an existing key.
    fn open_existing(args: &'a KeyInRealmArgs) -> Result<Self> {
        ensure!(
            args.signing_key_file.exists(),
            "there is no file {}: make the key with apikeys signing-key new",
            args.signing_key_file.display()
        );
        Self::open(args)
    }

    fn kid(&self) -> &str {
        self.file.key().kid()
    }

    fn shown_file(&self) -> String {
        self.file.path().display().to_string()
    }

    fn places(&self) -> Result<Places> {
        Places::read(&self.admin, &self.args.names, self.args.management)
    }

    /// The places; fails unless all of them trust the key already.
    fn trusting_places(&self) -> Result<Places> {
        let places = self.places()?;
        if let Some(place) = places.all.iter().find(|place| !place.trusts(&self.jwk)) {
            bail!(
                "{} does not trust key {} of {}: run apikeys signing-key new with this file first",
                place.object,
                self.kid(),
                self.shown_file()
            );
        }
        Ok(places)
    }

    /// Signs in with the key as each client that uses it.
    fn prove(&self, places: &Places) -> Result<Vec<String>> {
        let names = &self.args.names;
        let client = |client_id: &str, duty| WantedClient {
            client_id: client_id.to_owned(),
            duty,
            signing_jwk: self.jwk.clone(),
        };
        let wanted = Wanted {
            gateway: client(&names.client_id, Duty::Exchange),
            manager: Some(client(&names.management_client_id, Duty::Manage)),
            identity_provider: names.identity_provider.clone(),
            assertion_issuer: self.args.assertion_issuer.clone(),
            replace_signing_key: false,
        };
        let concerned = |client: &&WantedClient| places.clients.contains(&client.client_id);
        let signers: Vec<Signer<'_>> = wanted
            .clients()
            .filter(concerned)
            .map(|client| Signer {
                client,
                key: self.file.key(),
            })
            .collect();
        let report = verify::verify(&self.admin, &wanted, &signers, Proof::ByReading)
            .with_context(|| {
                format!(
                    "Keycloak does not accept key {} of {}",
                    self.kid(),
                    self.shown_file()
                )
            })?;
        Ok(report.proven)
    }

    fn tell(&mut self, name: &str, value: Value) {
        self.told.insert(name.to_owned(), value);
    }

    /// Prints a line for people, at once.
    fn say(&self, line: &str) -> Result<()> {
        match self.args.output.is_json() {
            true => Ok(()),
            false => Ok(output::result(line)?),
        }
    }

    /// Prints the document for programs, at the end.
    fn finish(mut self) -> Result<()> {
        if !self.args.output.is_json() {
            return Ok(());
        }
        self.tell("kid", json!(self.kid()));
        self.tell("signing_key_file", json!(self.shown_file()));
        self.tell("realm", json!(self.admin.realm()));
        Ok(output::result(&format!("{:#}", Value::Object(self.told)))?)
    }
}

fn new(args: &KeyInRealmArgs) -> Result<()> {
    let mut rotation = Rotation::open(args)?;
    let places = rotation.places()?;
    check_room(&rotation, &places)?;
    let is_made = rotation.file.is_new();
    // Save the key first: otherwise the realm could trust a key that nobody has.
    rotation.file.save()?;
    if is_made {
        rotation.say(&format!("made: {}", rotation.shown_file()))?;
    }
    let mut changed = Vec::new();
    for place in &places.all {
        if place.trusts(&rotation.jwk) {
            continue;
        }
        let keys = [place.keys.clone(), vec![rotation.jwk.clone()]].concat();
        place.with(keys).write(&rotation.admin)?;
        rotation.say(&format!(
            "{} trusts key {} as well",
            place.object,
            rotation.kid()
        ))?;
        changed.push(place.object.clone());
    }
    let now = rotation.trusting_places().context(
        "Keycloak took the changes, but they are not there: is another program changing this \
         realm? Repeat the command",
    )?;
    if changed.is_empty() && !is_made {
        rotation.say(&format!(
            "nothing to do: the realm trusts key {} already",
            rotation.kid()
        ))?;
    }
    rotation.say(&format!(
        "next: apikeys signing-key activate --signing-key-file {}",
        rotation.shown_file()
    ))?;
    rotation.tell("made", json!(is_made));
    rotation.tell("changed", json!(changed));
    rotation.tell("trusted", now.document());
    rotation.finish()
}

/// Refuses a third key: an earlier rotation is not finished.
fn check_room(rotation: &Rotation<'_>, places: &Places) -> Result<()> {
    let others = places.others(&rotation.jwk);
    ensure!(
        !others.is_empty(),
        "key {} of {} is the one that the realm trusts now: name a file of another name for the \
         next key",
        rotation.kid(),
        rotation.shown_file()
    );
    ensure!(
        others.len() == 1,
        "a rotation is under way: the realm trusts the keys {}. End it first: apikeys signing-key \
         retire with the file of the key that is to stay",
        others.join(", ")
    );
    Ok(())
}

fn activate(args: &KeyInRealmArgs) -> Result<()> {
    let mut rotation = Rotation::open_existing(args)?;
    let places = rotation.trusting_places()?;
    let verified = rotation.prove(&places)?;
    for line in &verified {
        rotation.say(&format!("verified: {line}"))?;
    }
    let others = places.others(&rotation.jwk);
    match seen::silence(&rotation.admin, args.unused_for)? {
        Some(why) => {
            output::warning(&format!("which key gateways have cannot be told: {why}"));
            rotation.tell("signed_in", Value::Null);
        }
        None => {
            let seen = Seen::look(&rotation.admin, &places.clients, args.unused_for)?;
            for line in seen.lines() {
                rotation.say(&line)?;
            }
            let ours = rotation.file.key().short_kid();
            let signed_in = seen.document(ours);
            rotation.tell("signed_in", signed_in);
        }
    }
    let field = match args.management {
        true => "management_signing_key",
        false => "signing_key",
    };
    rotation.say(&format!(
        "give every gateway the key in {} (kid {}), as {field} or by what {field}_property names, \
         one after the other",
        rotation.shown_file(),
        rotation.kid()
    ))?;
    if !others.is_empty() {
        rotation.say(&format!(
            "then: apikeys signing-key retire --signing-key-file {}",
            rotation.shown_file()
        ))?;
    }
    rotation.tell("verified", json!(verified));
    rotation.tell("field", json!(field));
    rotation.tell("trusted", places.document());
    rotation.finish()
}

fn retire(args: &RetireArgs) -> Result<()> {
    let mut rotation = Rotation::open_existing(&args.key)?;
    let places = rotation.trusting_places()?;
    let others = places.others(&rotation.jwk);
    if others.is_empty() {
        rotation.say(&format!(
            "nothing to retire: key {} is the only one that the realm trusts",
            rotation.kid()
        ))?;
    } else {
        rotation.prove(&places)?;
        if !args.now {
            check_unused(&rotation, &places, &others)?;
        }
        for place in &places.all {
            if place.others(&rotation.jwk).next().is_none() {
                continue;
            }
            place
                .with(vec![rotation.jwk.clone()])
                .write(&rotation.admin)?;
            rotation.say(&format!(
                "{} trusts key {} alone",
                place.object,
                rotation.kid()
            ))?;
        }
    }
    let now = rotation.trusting_places()?;
    ensure!(
        now.others(&rotation.jwk).is_empty(),
        "Keycloak took the changes, but the old key is there: is another program changing this \
         realm? Repeat the command"
    );
    let verified = rotation.prove(&now)?;
    for line in &verified {
        rotation.say(&format!("verified: {line}"))?;
    }
    rotation.tell("retired", json!(others));
    rotation.tell("verified", json!(verified));
    rotation.tell("trusted", now.document());
    rotation.finish()
}

/// Refuses while a gateway signs with a key to be retired, or while no gateway was seen to
/// sign with the remaining key.
fn check_unused(rotation: &Rotation<'_>, places: &Places, others: &[String]) -> Result<()> {
    let seconds = rotation.args.unused_for;
    if let Some(why) = seen::silence(&rotation.admin, seconds)? {
        bail!(
            "whether gateways still sign with key {} cannot be told: {why}. If none does, give --now",
            others.join(", ")
        );
    }
    let seen = Seen::look(&rotation.admin, &places.clients, seconds)?;
    let ours = rotation.file.key().short_kid();
    if let Some(other) = seen.other_than(ours) {
        bail!(
            "nothing was retired: another key than {} is in use: {other}. Give every gateway the \
             key in {}, and repeat this once no other was used for {seconds} s; --now retires a \
             key that is in use",
            rotation.kid(),
            rotation.shown_file()
        );
    }
    ensure!(
        seen.has(ours),
        "nothing was retired: no gateway has signed in with key {} lately, so none was seen to \
         work with it. Give the gateways the key in {} first",
        rotation.kid(),
        rotation.shown_file()
    );
    Ok(())
}
