//! The parts of a search, as SQL that drives and SQL that checks.

use rusqlite::types::Value;
use spotreel_api::TaskSearch;

use crate::text;

/// One part of a search.
pub(crate) struct Condition {
    /// Names tasks by their `n`, newest first, from `:from` on and before `:before`. None: it can only check.
    pub drive: Option<&'static str>,
    /// Of a row `t` of `task`; the value is `?`.
    pub check: &'static str,
    pub value: Value,
    pub is_text: bool,
}

pub(crate) const EVERY_TASK: &str =
    "SELECT n FROM task WHERE n >= :from AND n < :before AND :value IS NULL ORDER BY n DESC";

pub(crate) fn conditions(search: &TaskSearch) -> Vec<Condition> {
    let mut all = Vec::new();
    let mut add = |drive, check, value: Value| {
        all.push(Condition {
            drive,
            check,
            value,
            is_text: false,
        });
    };
    match (&search.owner, search.state) {
        (Some(owner), Some(state)) => add(
            Some(
                "SELECT n FROM task INDEXED BY task_owner_state WHERE owner IS NOT NULL AND owner || ' ' || state = :value
                 AND n >= :from AND n < :before ORDER BY n DESC",
            ),
            "t.owner || ' ' || t.state = ?",
            format!("{owner} {state}").into(),
        ),
        (Some(owner), None) => add(
            Some(
                "SELECT n FROM task INDEXED BY task_owner WHERE owner IS NOT NULL AND owner = :value
                 AND n >= :from AND n < :before ORDER BY n DESC",
            ),
            "t.owner = ?",
            owner.to_string().into(),
        ),
        (None, Some(state)) => add(
            Some(
                "SELECT n FROM task INDEXED BY task_state WHERE state = :value AND n >= :from AND n < :before
                 ORDER BY n DESC",
            ),
            "t.state = ?",
            state.to_owned().into(),
        ),
        (None, None) => {}
    }
    if let Some(model) = search.model {
        let drive = "SELECT n FROM task INDEXED BY task_model WHERE model = :value AND n >= :from AND n < :before
                     ORDER BY n DESC";
        add(Some(drive), "t.model = ?", model.as_str().to_owned().into());
    }
    if let Some(label) = &search.label {
        let drive = "SELECT n FROM label WHERE label = :value AND n >= :from AND n < :before ORDER BY n DESC";
        let check = "EXISTS (SELECT 1 FROM label l WHERE l.label = ? AND l.n = t.n)";
        add(Some(drive), check, label.clone().into());
    }
    if let Some(batch) = &search.batch {
        let drive =
            "SELECT DISTINCT a.n FROM machine m CROSS JOIN attempt a ON a.instance = m.instance
                     WHERE m.batch = :value AND a.n >= :from AND a.n < :before ORDER BY a.n DESC";
        let check =
            "EXISTS (SELECT 1 FROM machine m CROSS JOIN attempt a ON a.instance = m.instance
                     WHERE m.batch = ? AND a.n = t.n)";
        add(Some(drive), check, batch.to_string().into());
    }
    if let Some(since) = search.since {
        add(None, "t.submitted >= ?", since.as_millisecond().into());
    }
    if let Some(until) = search.until {
        add(None, "t.submitted < ?", until.as_millisecond().into());
    }
    if let Some(text) = &search.text {
        all.push(Condition {
            drive: Some(
                "SELECT rowid FROM prompt WHERE prompt MATCH :value AND rowid >= :from AND rowid < :before
                 ORDER BY rowid DESC",
            ),
            check: "EXISTS (SELECT 1 FROM prompt WHERE prompt MATCH ? AND rowid = t.n)",
            // A text without a word is refused before; if it came so far, it would find nothing.
            value: text::expression(text).unwrap_or_else(|| "\"\"".to_owned()).into(),
            is_text: true,
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use spotreel_domain::batch::BatchId;
    use spotreel_domain::{Model, Owner};

    use jiff::Timestamp;
    use rusqlite::named_params;

    use super::*;
    use crate::file::Index;

    /// Each condition that can drive does so by an index that has its tasks in their order already.
    #[test]
    fn every_condition_drives_by_an_index_in_the_order_of_the_pages() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("search.db")).unwrap();
        let all = TaskSearch {
            text: Some("fox".into()),
            owner: Some(Owner::parse("anna").unwrap()),
            label: Some("film=fox".into()),
            model: Some(Model::Ti2v5b),
            batch: BatchId::parse("default-1"),
            since: Some(Timestamp::UNIX_EPOCH),
            until: Some(Timestamp::MAX),
            ..TaskSearch::default()
        };
        let of_state = TaskSearch {
            state: Some("failed"),
            ..TaskSearch::default()
        };
        let both = TaskSearch {
            owner: all.owner.clone(),
            ..of_state.clone()
        };
        let searches = [all, of_state, both];
        let mut driving: Vec<_> = searches.iter().flat_map(conditions).collect();
        assert_eq!(driving.len(), 9);
        driving.retain(|one| one.drive.is_some());
        let plans = driving
            .iter()
            .map(|one| one.drive.unwrap())
            .chain([EVERY_TASK]);
        for drive in plans {
            let mut explained = index
                .db
                .prepare(&format!("EXPLAIN QUERY PLAN {drive}"))
                .unwrap();
            let bound = named_params! { ":from": 1, ":before": 9, ":value": "x" };
            let steps = explained.query_map(bound, |row| row.get::<_, String>(3));
            let steps: Vec<_> = steps.unwrap().map(Result::unwrap).collect();
            let plan = steps.join("\n");
            let sorts = plan.contains("TEMP B-TREE");
            assert_eq!(sorts, drive.contains("machine"), "{drive}\n{plan}");
            assert!(!plan.contains("SCAN task"), "{drive}\n{plan}");
            let seeks = ["rowid>? AND rowid<?", "n>? AND n<?", "VIRTUAL TABLE INDEX"];
            assert!(
                seeks.iter().any(|seek| plan.contains(seek)),
                "{drive}\n{plan}"
            );
        }
    }
}
