//! The request: a flat form (`Filter.1.Value.2=x`) as the tree that it stands for.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::error::Refusal;

/// As many as a form may have; AWS's largest request here (300 overrides of a few fields) stays below.
const MOST_FIELDS: usize = 10_000;
const DEEPEST: usize = 12;

/// A place in the request: its own text, and what lies below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    value: Option<String>,
    children: BTreeMap<String, Node>,
}

impl Node {
    pub fn parse(form: &[u8]) -> Result<Self, Refusal> {
        let mut root = Self::default();
        for (count, (name, value)) in form_urlencoded::parse(form).enumerate() {
            let path: Vec<&str> = name.split('.').collect();
            if count >= MOST_FIELDS || path.len() > DEEPEST {
                let message = "The request has too many parameters";
                return Err(Refusal::new("MalformedQueryString", message));
            }
            let mut node = &mut root;
            for part in path {
                node = node.children.entry(part.to_owned()).or_default();
            }
            node.value = Some(value.into_owned());
        }
        Ok(root)
    }

    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.get(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.children.contains_key(name)
    }

    pub fn remove(&mut self, name: &str) -> Option<Self> {
        self.children.remove(name)
    }

    pub fn children(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.children
            .iter()
            .map(|(name, node)| (name.as_str(), node))
    }

    /// All entries of `other` win over ours of the same name.
    pub fn merged(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        let newer = other.children.clone();
        merged.children.extend(newer);
        merged
    }

    /// The text at `name`, also when it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.child(name).and_then(Self::value)
    }

    pub fn required(&self, name: &str) -> Result<&str, Refusal> {
        match self.text(name) {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(Refusal::missing(name)),
        }
    }

    pub fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Refusal::invalid(text, name)),
        }
    }

    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        Ok(self.parsed(name)?.unwrap_or(false))
    }

    /// The numbered entries at `name`, in the order of their numbers.
    pub fn list(&self, name: &str) -> Vec<&Self> {
        self.child(name).map(Self::entries).unwrap_or_default()
    }

    pub fn entries(&self) -> Vec<&Self> {
        let numbered = self.children.iter();
        let mut entries: Vec<(u32, &Self)> = numbered
            .filter_map(|(name, node)| Some((name.parse().ok()?, node)))
            .collect();
        entries.sort_by_key(|(number, _)| *number);
        entries.into_iter().map(|(_, node)| node).collect()
    }

    pub fn texts(&self, name: &str) -> Vec<&str> {
        let list = self.list(name).into_iter();
        list.filter_map(Self::value).collect()
    }

    /// `Tag.1.Key` and `Tag.1.Value`.
    pub fn tags(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let mut tags = BTreeMap::new();
        for tag in self.list("Tag") {
            let key = tag.required("Key")?;
            let value = tag.text("Value").unwrap_or("");
            tags.insert(key.to_owned(), value.to_owned());
        }
        Ok(tags)
    }

    /// The tags that a request orders for one type of resource.
    pub fn tags_for(&self, resource: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let mut tags = BTreeMap::new();
        for specification in self.list("TagSpecification") {
            if specification.required("ResourceType")? == resource {
                tags.extend(specification.tags()?);
            }
        }
        Ok(tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_the_order_of_their_numbers() {
        let form = b"Id.10=c&Id.2=b&Id.1=a&Tag.1.Key=k&Tag.1.Value=%3Cv%3E";
        let node = Node::parse(form).unwrap();
        assert_eq!(node.texts("Id"), ["a", "b", "c"]);
        assert_eq!(node.tags().unwrap()["k"], "<v>");
        assert_eq!(node.required("X").unwrap_err().code, "MissingParameter");
        let wrong = Node::parse(b"N=x").unwrap().parsed::<u32>("N");
        assert_eq!(wrong.unwrap_err().code, "InvalidParameterValue");
    }
}
