//! Pages of keys, as `ListObjectsV2` cuts them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::blob::Meta;

/// S3's own ceiling for a page.
pub(crate) const MAX_KEYS: usize = 1000;

pub(crate) struct Query<'a> {
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    pub start_after: Option<&'a str>,
    /// The last entry of the page before: a key, or a common prefix whose keys are all done with.
    pub resume: Option<&'a str>,
    pub max: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub objects: Vec<Arc<Meta>>,
    pub prefixes: Vec<String>,
    /// Where the next page resumes; none on the last one.
    pub next: Option<String>,
}

pub(crate) fn page(objects: &BTreeMap<String, Arc<Meta>>, query: &Query<'_>) -> Page {
    let mut page = Page::default();
    let mut last: Option<String> = None;
    let after = query.start_after.max(query.resume).unwrap_or("");
    let from = if after < query.prefix {
        Bound::Included(query.prefix)
    } else {
        Bound::Excluded(after)
    };
    for (key, meta) in objects.range::<str, _>((from, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(query.prefix) else {
            break; // sorted: all keys with the prefix lie together
        };
        let delimiter = query.delimiter.filter(|delimiter| !delimiter.is_empty());
        let cut = delimiter.and_then(|d| rest.find(d).map(|at| at + d.len()));
        let entry = match cut {
            Some(cut) => &key[..query.prefix.len() + cut],
            None => key,
        };
        let seen = last.as_deref() == Some(entry) || query.resume == Some(entry);
        if cut.is_some() && seen {
            continue;
        }
        if page.objects.len() + page.prefixes.len() >= query.max {
            // With max 0 S3 says "not truncated", and there is nothing to resume from.
            page.next = last;
            break;
        }
        match cut {
            Some(_) => page.prefixes.push(entry.to_owned()),
            None => page.objects.push(Arc::clone(meta)),
        }
        last = Some(entry.to_owned());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> BTreeMap<String, Arc<Meta>> {
        let meta = |key: &str| Meta {
            key: key.to_owned(),
            ..Meta::default()
        };
        let pairs = keys
            .iter()
            .map(|key| ((*key).to_owned(), Arc::new(meta(key))));
        pairs.collect()
    }

    fn all(objects: &BTreeMap<String, Arc<Meta>>, prefix: &str, max: usize) -> Vec<String> {
        let mut entries = Vec::new();
        let mut resume: Option<String> = None;
        loop {
            let query = Query {
                prefix,
                delimiter: Some("/"),
                start_after: None,
                resume: resume.as_deref(),
                max,
            };
            let page = page(objects, &query);
            entries.extend(page.objects.iter().map(|meta| meta.key.clone()));
            entries.extend(page.prefixes);
            resume = page.next;
            if resume.is_none() {
                entries.sort();
                return entries;
            }
        }
    }

    #[test]
    fn every_page_size_lists_the_same() {
        let objects = keys(&["a", "b/1", "b/2", "b/3", "b0", "c/x/1", "c/y", "d"]);
        let whole = ["a", "b/", "b0", "c/", "d"];
        for max in 1..9 {
            assert_eq!(all(&objects, "", max), whole, "pages of {max}");
        }
        assert_eq!(all(&objects, "c/", 1), ["c/x/", "c/y"]);
        assert!(all(&objects, "zzz", 1).is_empty());
    }
}
