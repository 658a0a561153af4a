//! The description of the HTTP API and the page for people tell of the same routes.

use std::collections::BTreeSet;

use spotreel_domain::Model;

#[test]
fn every_route_is_in_the_page() {
    let document = spotreel_intake::http::document();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/http.md"))
        .unwrap();
    let mut routes = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            routes.insert(format!("| `{} {path}` |", method.to_uppercase()));
        }
    }
    assert_eq!(routes.len(), 22, "{routes:?}");
    let written = page
        .lines()
        .filter(|line| {
            let named = line.strip_prefix("| `");
            named.is_some_and(|named| named.starts_with(|first: char| first.is_ascii_uppercase()))
        })
        .map(|line| {
            let end = line[3..].find("` |").unwrap();
            line[..end + 6].to_owned()
        });
    assert_eq!(written.collect::<BTreeSet<_>>(), routes);
}

#[test]
fn what_is_referred_to_is_there() {
    let document = spotreel_intake::http::document();
    assert_eq!(document["openapi"], "3.1.0");
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    let task = &document["components"]["schemas"]["TaskRequest"];
    assert_eq!(task["oneOf"].as_array().unwrap().len(), Model::ALL.len());
    for model in task["oneOf"].as_array().unwrap() {
        let tiers = &model["properties"]["quality"]["anyOf"][0]["enum"];
        assert_eq!(*tiers, serde_json::json!(["fast", "standard", "best"]));
        let prompt = model["properties"]["prompt"]["pattern"].as_str().unwrap();
        assert!(
            !prompt.contains("A-Z"),
            "prompts come in every script: {prompt}"
        );
    }
}
