//! How schemas go forward: steps from one version to the next, in order, each recorded in the store.
//!
//! A step only adds: processes of the release before it read and write on while it runs and after it,
//! until they are replaced; started again they are refused. Each statement may run twice, since a
//! crash may come between it and its record.

use crate::port::{StoreError, StoreStatus};

/// One step of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The version that it leads to, from the one before.
    pub to: u32,
    /// What it is for, in a few words.
    pub what: &'static str,
    /// Statements of the engine, in order. `{store}` stands for the keyspace, the database or the prefix;
    /// for Elasticsearch a statement is `METHOD /path` and, behind it, the body.
    pub statements: &'static [&'static str],
}

/// The schema of a release: the version that its `init` makes, and the steps from older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The version.
    pub version: u32,
    /// Steps up to it, in order and without a gap.
    pub steps: &'static [Migration],
}

/// What a migration has done, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// The version that was found.
    pub found: u32,
    /// The version that this release wants.
    pub wanted: u32,
    /// The steps, in order.
    pub steps: Vec<Migration>,
}

impl Schema {
    /// The steps that are due from a version on.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`] where the store is ahead of the release; [`StoreError::Unavailable`]
    /// where it has no schema; [`StoreError::Unsupported`] where no way leads from its version.
    pub fn due(&self, store: &str, found: Option<u32>) -> Result<MigrationReport, StoreError> {
        let Some(found) = found else {
            let words = format!("{store} has no schema of ours: run `farspan store init`");
            return Err(StoreError::Unavailable(words));
        };
        if found > self.version {
            let file = store.to_owned();
            return Err(StoreError::NewerFormat { file, found, known: self.version });
        }
        let due = self.steps.iter().filter(|step| step.to > found);
        let steps: Vec<Migration> = due.copied().collect();
        let numbers = (found.saturating_add(1)..=self.version).collect::<Vec<_>>();
        if steps.iter().map(|step| step.to).collect::<Vec<_>>() != numbers {
            let wanted = self.version;
            return Err(StoreError::Unsupported(format!(
                "{store} has schema version {found}, and this release knows no way from there to \
                 {wanted}: a release in between does"
            )));
        }
        Ok(MigrationReport { found, wanted: self.version, steps })
    }
}

/// Refuses a schema that is not the release's: for who is to run on it.
pub(crate) fn expect(store: &str, found: Option<u32>, wanted: u32) -> Result<(), StoreError> {
    match found {
        Some(found) if found > wanted => {
            Err(StoreError::NewerFormat { file: store.to_owned(), found, known: wanted })
        }
        Some(found) if found < wanted => Err(StoreError::Unavailable(format!(
            "{store} has schema version {found}, and this release needs {wanted}: run \
             `farspan store migrate`"
        ))),
        Some(_) => Ok(()),
        None => Err(StoreError::Unavailable(format!(
            "{store} is not initialised: run `farspan store init`"
        ))),
    }
}

impl StoreStatus {
    /// What is to be done about the schema, if something is.
    #[must_use]
    pub fn advice(&self, store: &str, schema: &Schema) -> Option<String> {
        match schema.due(store, self.schema) {
            Ok(report) if report.steps.is_empty() => None,
            Ok(report) => {
                let steps = report.steps.iter().map(|step| format!("{} ({})", step.to, step.what));
                let steps = steps.collect::<Vec<_>>().join(", ");
                Some(format!("`farspan store migrate` leads to schema version {steps}"))
            }
            Err(error) => Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn step(to: u32) -> Migration {
        Migration { to, what: "a step", statements: &[] }
    }
    static STEPS: [Migration; 2] = [step(3), step(4)];
    static SCHEMA: Schema = Schema { version: 4, steps: &STEPS };

    #[test]
    fn the_steps_behind_a_version_are_due_in_order() {
        let due = |found| SCHEMA.due("it", Some(found)).unwrap().steps;
        assert_eq!(due(2), STEPS);
        assert_eq!(due(3), STEPS[1..]);
        assert_eq!(due(4), []);
    }

    #[test]
    fn what_is_newer_missing_or_too_old_is_refused_in_words() {
        let refused = |found| SCHEMA.due("the keyspace k", found).unwrap_err().to_string();
        assert!(refused(Some(5)).contains("version 5; this release reads up to 4"));
        assert!(refused(None).contains("store init"));
        assert!(refused(Some(1)).contains("no way from there to 4"));
        assert!(expect("it", Some(3), 4).unwrap_err().to_string().contains("store migrate"));
        assert!(expect("it", Some(5), 4).is_err() && expect("it", None, 4).is_err());
        assert!(expect("it", Some(4), 4).is_ok());
    }

    #[test]
    fn the_schemas_of_this_release_can_be_reached_from_the_first_on() {
        let schemas: &[&Schema] = &[
            #[cfg(feature = "cassandra")]
            &crate::cassandra::SCHEMA,
            #[cfg(feature = "clickhouse")]
            &crate::clickhouse::SCHEMA,
            #[cfg(feature = "elasticsearch")]
            &crate::elasticsearch::SCHEMA,
        ];
        for schema in schemas {
            for found in 1..=schema.version {
                assert!(schema.due("it", Some(found)).is_ok(), "{schema:?} from {found}");
            }
        }
    }
}
