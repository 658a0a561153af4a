//! Answers as a tree, and the tree as text.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

/// One element: either text or children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    name: String,
    namespace: Option<&'static str>,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Text(String),
    Children(Vec<Element>),
}

impl Element {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: None,
            content: Content::Children(Vec::new()),
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "numbers and texts alike: a `&` at each of a hundred calls says nothing"
    )]
    pub fn leaf(name: &str, text: impl ToString) -> Self {
        Self {
            name: name.to_owned(),
            namespace: None,
            content: Content::Text(text.to_string()),
        }
    }

    pub fn renamed(self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self
        }
    }

    pub fn namespace(mut self, namespace: &'static str) -> Self {
        self.namespace = Some(namespace);
        self
    }

    pub fn with(mut self, child: Self) -> Self {
        if let Content::Children(children) = &mut self.content {
            children.push(child);
        }
        self
    }

    pub fn text(self, name: &str, text: impl ToString) -> Self {
        self.with(Self::leaf(name, text))
    }

    pub fn text_if(self, name: &str, text: Option<impl ToString>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// A list as EC2 writes it: each entry is called `item`.
    pub fn set(self, name: &str, items: impl IntoIterator<Item = Self>) -> Self {
        let items = items.into_iter().map(|item| item.renamed("item"));
        self.with(Self {
            content: Content::Children(items.collect()),
            ..Self::new(name)
        })
    }
}

/// An entry of a [`Element::set`], which names it.
pub(crate) fn item() -> Element {
    Element::new("item")
}

pub(crate) fn render(root: &Element) -> String {
    let mut writer = Writer::new(Vec::new());
    let declaration = Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None));
    // Writing to memory does not fail.
    let _ = writer.write_event(declaration);
    write(&mut writer, root);
    String::from_utf8_lossy(&writer.into_inner()).into_owned()
}

fn write(writer: &mut Writer<Vec<u8>>, element: &Element) {
    let mut start = BytesStart::new(element.name.as_str());
    if let Some(namespace) = element.namespace {
        start.push_attribute(("xmlns", namespace));
    }
    let _ = writer.write_event(Event::Start(start));
    match &element.content {
        Content::Text(text) => {
            let _ = writer.write_event(Event::Text(BytesText::new(text)));
        }
        Content::Children(children) => children.iter().for_each(|child| write(writer, child)),
    }
    let _ = writer.write_event(Event::End(BytesEnd::new(element.name.as_str())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_lists_hold_items() {
        let root = Element::new("A").set("b", [Element::leaf("x", "<&>")]);
        let text = render(&root);
        assert!(
            text.ends_with("<A><b><item>&lt;&amp;&gt;</item></b></A>"),
            "{text}"
        );
    }
}
