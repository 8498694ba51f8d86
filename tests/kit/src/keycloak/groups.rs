//! Groups of the realm: names are unique, and each group has an id of its own.

use apikeys_core::keycloak::Call;
use serde_json::{Value, json};

use super::{Reply, decoded, error, shown};

/// The realm's groups.
#[derive(Default)]
pub struct Groups {
    there: Vec<Value>,
    made: usize,
}

impl Groups {
    pub(super) fn answer(&mut self, call: &Call, path: &str, query: &str) -> Reply {
        match call.method {
            "POST" => {
                let mut group: Value = serde_json::from_str(call.json.as_deref().unwrap()).unwrap();
                if self
                    .there
                    .iter()
                    .any(|other| other["name"] == group["name"])
                {
                    return error(409, "Top level group already exists");
                }
                self.made += 1;
                group["id"] = json!(format!("group-{}", self.made));
                self.there.push(group);
                (201, Vec::new())
            }
            "GET" => {
                let search = query.split('&').next().unwrap();
                let name = decoded(search.strip_prefix("search=").unwrap());
                assert!(query.ends_with("&exact=true&briefRepresentation=false"));
                let found = self.there.iter().filter(|group| group["name"] == name);
                shown(&found.cloned().collect())
            }
            "DELETE" => {
                let id = path.strip_prefix("groups/").unwrap();
                match self.there.iter().position(|group| group["id"] == id) {
                    Some(at) => {
                        self.there.remove(at);
                        (204, Vec::new())
                    }
                    None => error(404, "Could not find group by id"),
                }
            }
            method => panic!("{method} {path}"),
        }
    }
}
