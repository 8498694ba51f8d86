//! `apikeys revoke --key-file`: ends the key that a file holds.
//!
//! The file may hold a cut or mistyped key, with the id of a key that still works. So the command
//! first checks the text against the stored hash. A text that is no key is an error.

use std::path::Path;

use anyhow::{Context, Result, bail};
use apikeys_core::api_key::format::ApiKey;
use apikeys_core::api_key::hash::{StoredHash, Verification};
use apikeys_core::api_key::record::KeyRecord;

use crate::args::RevokeArgs;
use crate::{inspect, key_source, keys, new_key, owner};

pub(crate) fn run(args: &RevokeArgs, path: &Path) -> Result<()> {
    let key = read(args, path)?;
    let id = key.id();
    let admin = args.connection.sign_in()?;
    let found = owner::find_or_look_up(&admin, &args.owner, id)?;
    let owner = found.with_context(|| keys::unknown(id))?;
    let name = owner.username();
    let record = KeyRecord::find(&owner.attributes, id)
        .with_context(|| format!("key {id} of {name:?}; it can be revoked by its id"))?;
    if !is_right(&record.hash, &key) {
        bail!("the text is no key: key {id} of {name:?} has another secret, and still works");
    }
    keys::end(args, &admin, Some(&owner), id)
}

/// Reads a text that can be a key.
fn read(args: &RevokeArgs, path: &Path) -> Result<ApiKey> {
    let format = new_key::format(&args.key_prefix)?;
    let format = match key_source::read_index_key(&args.index_key)? {
        Some(index_key) => format.with_index_key(&index_key),
        None => format,
    };
    let text = key_source::read_key_file(path)?;
    let key = format.parse(text.as_bytes()).map_err(inspect::not_a_key);
    key.context("the text is no key")
}

fn is_right(hash: &StoredHash, key: &ApiKey) -> bool {
    match hash.verify(key.expose().as_bytes()) {
        Verification::Decided(is_right) => is_right,
        Verification::Computing(mut job) => job.run(hash.rounds()) == Some(true),
    }
}
