//! `Filter.N`, ids and pages: what all Describe calls share.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::error::Refusal;
use super::query::Node;

/// AWS's limits: 200 filters of 200 values.
const MOST_FILTERS: usize = 200;

/// All filters must match, one value of each is enough.
#[derive(Debug)]
pub(crate) struct Filters<'a>(Vec<(&'a str, Vec<&'a str>)>);

impl<'a> Filters<'a> {
    /// Refuses a name that `known` does not have; one that ends with `:` stands for a prefix (`tag:`).
    pub fn of(request: &'a Node, known: &[&str]) -> Result<Self, Refusal> {
        let mut filters = Vec::new();
        for filter in request.list("Filter") {
            let name = filter.required("Name")?;
            let is =
                |known: &&str| name == *known || (known.ends_with(':') && name.starts_with(*known));
            if !known.iter().any(is) {
                let message = format!("The filter '{name}' is invalid");
                return Err(Refusal::new("InvalidParameterValue", message));
            }
            filters.push((name, filter.texts("Value")));
        }
        if filters.len() > MOST_FILTERS {
            let message = "The maximum number of filters is exceeded";
            return Err(Refusal::new("FilterLimitExceeded", message));
        }
        Ok(Self(filters))
    }

    /// `values_of` gives what the thing has under a filter's name.
    pub fn match_all<'b>(&self, values_of: impl Fn(&str) -> Vec<&'b str>) -> bool {
        self.0.iter().all(|(name, wanted)| {
            let values = values_of(name);
            let one = |pattern: &&str| values.iter().any(|value| matches(pattern, value));
            wanted.iter().any(one)
        })
    }
}

/// `*` stands for any text, `?` for one character, a backslash takes their meaning away.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let (escaped, wanted) = match pattern.get(p) {
            Some('\\') => (true, pattern.get(p + 1)),
            other => (false, other),
        };
        match wanted {
            Some('*') if !escaped => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == text[t] || (c == '?' && !escaped) => {
                p += if escaped { 2 } else { 1 };
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// One page of what was found, and the token of the next. Entries are `(position, entry)` with rising positions.
pub(crate) fn page<T>(
    request: &Node,
    bounds: (usize, usize),
    all: impl IntoIterator<Item = (u64, T)>,
) -> Result<(Vec<T>, Option<String>), Refusal> {
    let after = match request.text("NextToken") {
        Some(token) if !token.is_empty() => Some(position(token)?),
        _ => None,
    };
    let most = match request.parsed::<usize>("MaxResults")? {
        Some(most) if most < bounds.0 || most > bounds.1 => {
            let message = format!(
                "Value ( {most} ) for parameter maxResults is invalid. Expecting a value between {} and {}.",
                bounds.0, bounds.1
            );
            return Err(Refusal::new("InvalidParameterValue", message));
        }
        Some(most) => most,
        None => usize::MAX,
    };
    let mut rest = all
        .into_iter()
        .filter(|(position, _)| after.is_none_or(|after| *position > after))
        .peekable();
    let (mut found, mut last) = (Vec::new(), 0);
    while found.len() < most {
        let Some((position, entry)) = rest.next() else {
            break;
        };
        last = position;
        found.push(entry);
    }
    let more = rest.peek().is_some();
    let token = more.then(|| BASE64_URL_SAFE_NO_PAD.encode(last.to_be_bytes()));
    Ok((found, token))
}

fn position(token: &str) -> Result<u64, Refusal> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let bytes: Option<[u8; 8]> = bytes.and_then(|bytes| bytes.try_into().ok());
    match bytes {
        Some(bytes) => Ok(u64::from_be_bytes(bytes)),
        None => {
            let message = "Unable to parse pagination token";
            Err(Refusal::new("InvalidNextToken", message))
        }
    }
}

/// With numbers from 1, for [`page`].
pub(crate) fn numbered<T>(all: impl IntoIterator<Item = T>) -> impl Iterator<Item = (u64, T)> {
    (1..).zip(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, hit) in [
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a?c", "abbc", false),
            ("*", "", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("g5.*", "g5.xlarge", true),
            ("*x*y", "axbyxy", true),
        ] {
            assert_eq!(matches(pattern, text), hit, "{pattern} {text}");
        }
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        let first = Node::parse(b"MaxResults=2").unwrap();
        let (found, token) = page(&first, (1, 10), numbered(["a", "b", "c"])).unwrap();
        assert_eq!(found, ["a", "b"]);
        let next = format!("MaxResults=2&NextToken={}", token.unwrap());
        let next = Node::parse(next.as_bytes()).unwrap();
        let (found, token) = page(&next, (1, 10), numbered(["a", "b", "c"])).unwrap();
        assert_eq!((found, token), (vec!["c"], None));
    }
}
