//! Keycloak's own tables, written by `psql`: twenty thousand users would take minutes over
//! the admin interface, and the bench has many more.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::process::{Command, Stdio};

use apikeys_core::api_key::hash::hash_sha256;

use crate::owner::{Key, rfc3339};
use crate::wait::now_seconds;

/// The PostgreSQL that `scripts/with-postgres.sh` has started.
pub struct Database;

/// A written owner.
pub struct Stored {
    pub id: String,
    pub username: String,
    pub key: Key,
}

/// A key of an owner: its id, and the stored form of its hash in `apiKeys`.
pub type StoredKey = (String, String);

/// Takes the new rows, in tables that go with the transaction.
const BEGIN: &str = "
begin;
create temporary table new_owner (user_id text, username text) on commit drop;
create temporary table new_key (user_id text, key_id text, hash text) on commit drop;
-- All of them refer to each other as they should: it need not be looked at for each row.
set local session_replication_role = replica;
";

/// Drops the indexes of the attributes, that of the primary key among them, until all rows
/// are written: hundreds of thousands of keys then take a minute. No other session reads
/// attributes meanwhile.
const INDEXES_OFF: &str = "
create temporary table index_off on commit drop as
  select format('drop index %I', indexname) as off, indexdef as on_again from pg_indexes
  where tablename = 'user_attribute' and schemaname = current_schema()
    and indexname not in (select conname from pg_constraint)
  union all select format('alter table user_attribute drop constraint %I', conname),
    format('alter table user_attribute add constraint %I %s', conname, pg_get_constraintdef(oid))
  from pg_constraint where conrelid = 'user_attribute'::regclass and contype = 'p';
do $$ declare index record; begin
  for index in select off from index_off loop execute index.off; end loop;
end $$;
";
const INDEXES_ON: &str = "
set local maintenance_work_mem = '512MB';
do $$ declare index record; begin
  for index in select on_again from index_off loop execute index.on_again; end loop;
end $$;
";

/// More keys than this are written with the indexes off.
const KEYS_WITH_INDEXES: usize = 50_000;

/// The rows that Keycloak 26.7 writes for a user with keys and its link. A value of more
/// than 255 characters is found by its SHA-512, as it is and in lower case.
const OWNERS: &str = "
insert into user_entity (id, email, email_constraint, email_verified, enabled, first_name,
    last_name, realm_id, username, created_timestamp, not_before)
  select user_id, username || '@example.com', username || '@example.com', true, true, 'Many',
    'Owner', :'realm', username, 1800000000000, 0 from new_owner;
insert into user_role_mapping (role_id, user_id)
  select default_role, user_id from new_owner, realm where realm.id = :'realm';
insert into federated_identity (identity_provider, realm_id, federated_user_id,
    federated_username, user_id)
  select 'api-keys', :'realm', user_id, username, user_id from new_owner;
insert into user_attribute (id, name, user_id, value)
  select gen_random_uuid()::text, name, user_id, value from new_key, lateral (values
    ('apiKeys', 'key:' || key_id || ':' || hash),
    ('apiKey_' || key_id || '_name', 'One of many'),
    ('apiKey_' || key_id || '_created', :'created'),
    ('apiKey_' || key_id || '_expiresAt', :'expires_at')) as attribute (name, value);
insert into user_attribute (id, name, user_id, long_value, long_value_hash,
    long_value_hash_lower_case)
  select gen_random_uuid()::text, 'apiKeyIndex', user_id, value,
    sha512(convert_to(value, 'UTF8')), sha512(convert_to(lower(value), 'UTF8'))
  from new_key, lateral (select rpad(key_id, 288, '.') as value) as index_value;
";

/// Rows written in one go stay unvacuumed until the server finds the time, and its vacuum
/// then disturbs a measurement. So it is done here.
const END: &str = "
commit;
vacuum (analyze) user_entity, user_role_mapping, federated_identity, user_attribute;
checkpoint;
";

/// Keycloak's id of the owner of this number.
pub fn owner_id(number: u64) -> String {
    format!("{number:08x}-0000-4000-8000-00000000cafe")
}

impl Database {
    /// The database that the environment names.
    pub fn from_environment() -> Self {
        let given = std::env::var("KEYCLOAK_DB").is_ok_and(|kind| kind == "postgres");
        assert!(
            given && std::env::var("PGPORT").is_ok(),
            "no PostgreSQL is given: run this by scripts/with-postgres.sh"
        );
        Self
    }

    /// Writes so many owners of one key each; returns those of the wanted numbers.
    pub fn add_owners(&self, realm: &str, count: u64, wanted: &[u64]) -> Vec<Stored> {
        let mut stored = Vec::new();
        self.write_owners(realm, 0..count, |number, username| {
            if !wanted.contains(&number) {
                return vec![(format!("many{number:08}"), hash_sha256(username.as_bytes()))];
            }
            let key = Key::random();
            let record = (key.id.clone(), hash_sha256(key.text.as_bytes()));
            stored.push(Stored {
                id: owner_id(number),
                username: username.to_owned(),
                key,
            });
            vec![record]
        });
        stored
    }

    /// Writes the owners of these numbers; `keys` gives the keys of each, by its number and
    /// its name.
    pub fn write_owners(
        &self,
        realm: &str,
        numbers: Range<u64>,
        mut keys: impl FnMut(u64, &str) -> Vec<StoredKey>,
    ) {
        let realm_id = self.ask(&format!("select id from realm where name = '{realm}'"));
        let (mut owners, mut all_keys) = (String::new(), String::new());
        for number in numbers {
            let (id, username) = (owner_id(number), format!("many-{number:05}"));
            writeln!(owners, "{id}\t{username}").expect("a text");
            for (key_id, hash) in keys(number, &username) {
                writeln!(all_keys, "{id}\t{key_id}\t{hash}").expect("a text");
            }
        }
        let (off, on) = if all_keys.lines().count() > KEYS_WITH_INDEXES {
            (INDEXES_OFF, INDEXES_ON)
        } else {
            ("", "")
        };
        let (created, ends) = (rfc3339(now_seconds()), rfc3339(now_seconds() + 90 * 86_400));
        let script = format!(
            "\\set realm '{}'\n\\set created '{created}'\n\\set expires_at '{ends}'\n{BEGIN}\
             copy new_owner from stdin;\n{owners}\\.\n\
             copy new_key from stdin;\n{all_keys}\\.\n{off}{OWNERS}{on}{END}",
            realm_id.trim()
        );
        self.psql(&["-q"], &script);
    }

    /// A query's result.
    fn ask(&self, query: &str) -> String {
        self.psql(&["-At"], query)
    }

    fn psql(&self, arguments: &[&str], script: &str) -> String {
        let mut psql = Command::new("psql")
            .args(arguments)
            .args(["-v", "ON_ERROR_STOP=1", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql");
        let mut input = psql.stdin.take().expect("its input");
        std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(script.as_bytes()).expect("psql reads"));
        });
        let output = psql.wait_with_output().expect("psql ends");
        assert!(output.status.success(), "psql: {}", output.status);
        String::from_utf8(output.stdout).expect("a text")
    }
}
