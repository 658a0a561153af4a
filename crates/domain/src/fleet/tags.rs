//! An operator's own tags, as their account may demand them: which ones EC2 accepts, and which ones are fleet's.

use std::collections::BTreeMap;

/// EC2 accepts 50 a resource; fleet's own are 9.
const MOST: usize = 40;
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;
/// Fleet finds its instances by these.
const OURS: &str = "spotreel:";
/// Refused by EC2, since instances read their tags in the metadata, where each key is a path.
const RESERVED: [&str; 3] = [".", "..", "_index"];

pub const CURE: &str =
    "write a key of letters, digits and + - = . , _ : @ and a value, such as cost-center = \"42\"";

/// What is wrong with these tags, each in a sentence.
pub fn problems(tags: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    if tags.len() > MOST {
        problems.push(format!(
            "there are {} tags, and at most {MOST} fit beside fleet's own",
            tags.len()
        ));
    }
    for (key, value) in tags {
        let allowed = |c: char| c.is_alphanumeric() || "+-=.,_:@".contains(c);
        let lower = key.to_ascii_lowercase();
        if lower.starts_with("aws:") || lower.starts_with(OURS) {
            problems.push(format!(
                "keys that begin as {key} are not for people to set"
            ));
        } else if key.is_empty() || RESERVED.contains(&key.as_str()) || !key.chars().all(allowed) {
            problems.push(format!(
                "EC2 refuses the key {key:?} where machines read their tags"
            ));
        } else if key.chars().count() > LONGEST_KEY || value.chars().count() > LONGEST_VALUE {
            problems.push(format!(
                "{key} is longer than EC2 takes: {LONGEST_KEY} characters for a key, {LONGEST_VALUE} for a value"
            ));
        }
    }
    problems
}
