//! `apikeys create`: makes a key for an owner.
//!
//! The order is such that a run that is cut off lets nobody in: the owner is
//! linked first (a link without a key is of no use to anybody), the record is
//! written and read back next, and the key itself is told last.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use apikey_jwt_exchange::api_key::format::{ApiKey, KeyFormat};
use apikey_jwt_exchange::api_key::hash::{hash_bcrypt, hash_sha256};
use apikey_jwt_exchange::api_key::record::{
    Attributes, Field, INDEX_ATTRIBUTE, KEYS_ATTRIBUTE, index_value, is_scope, key_value,
};
use apikey_jwt_exchange::clock::UnixMillis;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::args::{CreateArgs, HashAlgorithm, OutputFormat};
use crate::keycloak_admin::{KeycloakAdmin, query, segment};
use crate::owner::{self, Owner};
use crate::setup::PROVIDER_ID;
use crate::{output, system};

const NAME_LENGTH_MAX: usize = 100;
const DAY_MS: u64 = 24 * 3600 * 1000;

pub(crate) fn run(args: &CreateArgs) -> Result<()> {
    let new_key = NewKey::from_args(args, system::now()?)?;
    let format =
        KeyFormat::new(&args.key_prefix).map_err(|error| anyhow!("--key-prefix {error}"))?;
    let admin = args.connection.sign_in()?;
    check_realm(&admin, &args.names.identity_provider)?;
    check_scopes(&admin, &args.names.client_id, new_key.scopes.as_deref())?;
    let owner = Owner::find(&admin, &args.owner)?;
    check_owner(&owner, &args.names.client_id)?;
    check_room(&owner.attributes, args.max_keys_per_user, &owner.username)?;
    let key = generate(&format)?;
    let hash = hash(&key, args)?;
    let destination = Destination::open(args)?;
    let recorded =
        owner::ensure_link(&admin, &owner, &args.names.identity_provider).and_then(|()| {
            owner::change_attributes(&admin, &owner.id, |attributes| {
                check_room(attributes, args.max_keys_per_user, &owner.username)?;
                new_key.add_to(attributes, key.id(), &hash)
            })
        });
    if let Err(error) = recorded {
        destination.discard();
        return Err(error);
    }
    destination
        .write(&shown(args.output, &key, &new_key, &owner))
        .with_context(|| {
            format!(
                "key {} of {:?} is recorded, and could not be told: delete its record, and make \
                 another",
                key.id(),
                owner.username
            )
        })
}

/// What is stored of a key beside its hash.
#[derive(Debug)]
struct NewKey {
    name: String,
    created: UnixMillis,
    expires_at: UnixMillis,
    scopes: Option<String>,
}

impl NewKey {
    fn from_args(args: &CreateArgs, now: UnixMillis) -> Result<Self> {
        let name = args.name.trim();
        ensure!(
            (1..=NAME_LENGTH_MAX).contains(&name.chars().count())
                && !name.chars().any(char::is_control),
            "--name must be 1 to {NAME_LENGTH_MAX} printable characters"
        );
        let expires_at = match &args.expires_at {
            None => now.plus_ms(u64::from(args.expires_days) * DAY_MS),
            Some(text) => UnixMillis::parse_rfc3339(text)
                .map_err(|error| anyhow!("--expires-at is {error}"))?,
        };
        // Seconds are what is stored: cut off first, so that what is compared is it.
        let expires_at = UnixMillis::from_seconds(expires_at.as_seconds());
        ensure!(
            expires_at > now,
            "--expires-at is in the past (it is {} now): such a key would never work",
            now.to_rfc3339()
        );
        if let Some(scopes) = &args.scopes {
            ensure!(
                is_scope(scopes),
                "--scopes must be OAuth scopes with single spaces between, as 'orders:read \
                 orders:write'; leave it out for the gateway's own"
            );
        }
        Ok(Self {
            name: name.to_owned(),
            created: now,
            expires_at,
            scopes: args.scopes.clone(),
        })
    }

    /// Adds the key to an owner's attributes; no other key's is touched.
    fn add_to(&self, attributes: &mut Attributes, id: &str, hash: &str) -> Result<()> {
        let taken = Field::ALL
            .iter()
            .any(|field| attributes.contains_key(&field.attribute(id)));
        ensure!(
            !taken,
            "the id {id} is taken, by a chance of 1 in 2^62: run it again"
        );
        let mut add = |name: &str, value: String| {
            attributes.entry(name.to_owned()).or_default().push(value);
        };
        add(KEYS_ATTRIBUTE, key_value(id, hash));
        add(INDEX_ATTRIBUTE, index_value(id));
        add(&Field::Name.attribute(id), self.name.clone());
        add(&Field::Created.attribute(id), self.created.to_rfc3339());
        add(
            &Field::ExpiresAt.attribute(id),
            self.expires_at.to_rfc3339(),
        );
        if let Some(scopes) = &self.scopes {
            add(&Field::Scopes.attribute(id), scopes.clone());
        }
        Ok(())
    }
}

/// A realm that was not set up takes the writes, and the key would not work, or
/// anybody could make himself one.
fn check_realm(admin: &KeycloakAdmin, alias: &str) -> Result<()> {
    let provider = admin.find(&format!("identity-provider/instances/{}", segment(alias)))?;
    if provider.is_none() && admin.find("")?.is_none() {
        bail!("there is no realm {:?}: check --realm", admin.realm());
    }
    let kind = provider
        .as_ref()
        .and_then(|provider| provider.get("providerId"));
    ensure!(
        kind.and_then(Value::as_str) == Some(PROVIDER_ID),
        "realm {:?} has no identity provider {alias:?} for API keys: run apikeys setup, or give \
         --identity-provider",
        admin.realm()
    );
    let profile = admin.get("users/profile")?;
    let policy = profile
        .get("unmanagedAttributePolicy")
        .and_then(Value::as_str);
    ensure!(
        policy == Some("ADMIN_EDIT"),
        "the user profile of realm {:?} has unmanagedAttributePolicy {}, where keys need \
         ADMIN_EDIT: run apikeys setup",
        admin.realm(),
        policy.unwrap_or("not set")
    );
    Ok(())
}

/// A key with a scope that its tokens cannot have would be refused at each use.
fn check_scopes(admin: &KeycloakAdmin, client_id: &str, scopes: Option<&str>) -> Result<()> {
    let Some(scopes) = scopes else {
        return Ok(());
    };
    let clients = admin.list(&format!("clients?clientId={}", query(client_id)))?;
    let client = clients
        .iter()
        .find(|client| client.get("clientId").and_then(Value::as_str) == Some(client_id))
        .with_context(|| {
            format!(
                "realm {:?} has no client {client_id:?}: run apikeys setup, or give --client-id",
                admin.realm()
            )
        })?;
    let known = allowed_scopes(client);
    let unknown: Vec<&str> = scopes
        .split(' ')
        .filter(|scope| !known.contains(scope))
        .collect();
    ensure!(
        unknown.is_empty(),
        "client {client_id:?} has no scope {}: make it a client scope of the realm and add it to \
         the client as optional, or choose among {}",
        unknown.join(", "),
        known.join(", ")
    );
    Ok(())
}

fn allowed_scopes(client: &Value) -> Vec<&str> {
    let of = |name: &str| {
        client
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let mut scopes: Vec<&str> = of("defaultClientScopes")
        .chain(of("optionalClientScopes"))
        .filter_map(Value::as_str)
        .chain(["openid"])
        .collect();
    scopes.sort_unstable();
    scopes
}

fn check_owner(owner: &Owner, client_id: &str) -> Result<()> {
    ensure!(
        owner.username != format!("service-account-{}", client_id.to_lowercase()),
        "{:?} is the gateway's own account: whoever held a key of that account could read all \
         users",
        owner.username
    );
    if !owner.enabled {
        output::warning(&format!(
            "user {:?} is disabled: the key is refused until it is enabled",
            owner.username
        ));
    }
    if !owner.required_actions.is_empty() {
        output::warning(&format!(
            "Keycloak waits for user {:?} to do {}: the key is refused until that is done",
            owner.username,
            owner.required_actions.join(", ")
        ));
    }
    Ok(())
}

/// Every record counts, expired or not: each is one more to look through, and one
/// that an expired key's holder may ask to have prolonged.
fn check_room(attributes: &Attributes, max: u64, username: &str) -> Result<()> {
    let held = attributes.get(KEYS_ATTRIBUTE).map_or(0, Vec::len);
    ensure!(
        u64::try_from(held).is_ok_and(|held| held < max),
        "user {username:?} holds {held} keys, expired ones included, and may hold {max}: take one \
         away, or give a higher --max-keys-per-user (max_keys_per_user of the gateway)"
    );
    Ok(())
}

fn generate(format: &KeyFormat) -> Result<ApiKey> {
    let mut outcome = Ok(());
    let key = format.generate(|bytes| {
        if outcome.is_ok() {
            outcome = system::fill_random(bytes);
        }
    });
    outcome.map(|()| key)
}

fn hash(key: &ApiKey, args: &CreateArgs) -> Result<String> {
    let text = key.expose().as_bytes();
    match args.hash_algorithm {
        HashAlgorithm::Sha256 => Ok(hash_sha256(text)),
        HashAlgorithm::Bcrypt => {
            let mut salt = [0_u8; 16];
            system::fill_random(&mut salt)?;
            let cost = u32::try_from(args.bcrypt_cost).context("--bcrypt-cost is too high")?;
            hash_bcrypt(text, cost, salt).map_err(|error| anyhow!("--bcrypt-cost: {error}"))
        }
    }
}

/// What is told of the key: the result, with the key in it, and the rest.
struct Shown {
    result: Zeroizing<String>,
    notes: String,
}

fn shown(format: OutputFormat, key: &ApiKey, new_key: &NewKey, owner: &Owner) -> Shown {
    let (created, expires_at) = (
        new_key.created.to_rfc3339(),
        new_key.expires_at.to_rfc3339(),
    );
    match format {
        OutputFormat::Json => {
            let document = json!({
                "key_id": key.id(),
                "api_key": key.expose(),
                "name": new_key.name,
                "created": created,
                "expires_at": expires_at,
                "owner": { "id": owner.id, "username": owner.username },
            });
            Shown {
                result: Zeroizing::new(format!("{document:#}")),
                notes: String::new(),
            }
        }
        OutputFormat::Text => Shown {
            result: Zeroizing::new(key.expose().to_owned()),
            notes: output::table(&[
                ("key id", key.id()),
                ("name", &new_key.name),
                ("owner", &format!("{} ({})", owner.username, owner.id)),
                ("created", &created),
                ("expires at", &expires_at),
                (
                    "scopes",
                    new_key.scopes.as_deref().unwrap_or("the gateway's own"),
                ),
                ("", "The key is shown this once: keep it."),
            ]),
        },
    }
}

/// Where the key goes. A file is made before the key is recorded, so that a key
/// is not made that cannot be told.
struct Destination<'a>(Option<(&'a Path, File)>);

impl<'a> Destination<'a> {
    fn open(args: &'a CreateArgs) -> Result<Self> {
        let path = args.output_file.as_deref();
        let file = path.map(|path| system::create_private(path).map(|file| (path, file)));
        file.transpose().map(Self)
    }

    fn write(self, shown: &Shown) -> Result<()> {
        if !shown.notes.is_empty() {
            output::note(&shown.notes);
        }
        match self.0 {
            None => output::result(&shown.result).context("standard output is closed"),
            Some((path, file)) => {
                let text = Zeroizing::new(format!("{}\n", *shown.result));
                system::write_private(file, path, &text)?;
                output::note(&format!("written to {}", path.display()));
                Ok(())
            }
        }
    }

    /// Takes the empty file away again.
    fn discard(self) {
        if let Some((path, _)) = self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
