//! The result of an import, for people and for programs. It never holds a key.

use serde_json::{Value, json};

use super::entry::Refused;
use crate::admin_error::one_line;
use crate::output;

/// A key that was imported, would be, or is there already.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) place: String,
    pub(crate) owner: String,
    pub(crate) id: String,
}

/// The result for each key of a file.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Whether the import wrote, or only looked.
    pub(crate) applied: bool,
    pub(crate) imported: Vec<Done>,
    pub(crate) present: Vec<Done>,
    pub(crate) refused: Vec<Refused>,
}

impl Report {
    pub(crate) fn document(&self) -> Value {
        let done = |keys: &[Done]| -> Vec<Value> {
            let told =
                |key: &Done| json!({ "place": key.place, "owner": key.owner, "key_id": key.id });
            keys.iter().map(told).collect()
        };
        let refused = |refusal: &Refused| json!({ "place": refusal.place, "owner": refusal.owner, "reason": refusal.reason });
        json!({
            "applied": self.applied,
            "imported": done(&self.imported),
            "present": done(&self.present),
            "refused": self.refused.iter().map(refused).collect::<Vec<_>>(),
        })
    }

    /// A line for each key that was refused, and the counts of the others.
    pub(crate) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .refused
            .iter()
            .map(|refusal| {
                vec![
                    refusal.place.clone(),
                    one_line(refusal.owner.as_deref().unwrap_or("-")),
                    one_line(&refusal.reason),
                ]
            })
            .collect();
        let mut text = String::new();
        if !rows.is_empty() {
            text.push_str(&output::grid(&["PLACE", "OWNER", "REFUSED BECAUSE"], &rows));
            text.push_str("\n\n");
        }
        let (imported, present, refused) =
            (self.imported.len(), self.present.len(), self.refused.len());
        text.push_str(&match self.applied {
            true => format!("{imported} imported, {present} were there already, {refused} refused"),
            false => format!(
                "dry run: {imported} would be imported, {present} are there already, {refused} \
                 would be refused; nothing was written, give --apply to write"
            ),
        });
        text
    }
}
