//! The rules of input, as one table (`table/`): what is sent, and the field and the rule that its refusal names. No server is
//! needed: the parser, the model's limits and the picture itself decide.
//!
//! `hostile/` sends the table to a running intake: its pictures as requests, all of it through the inbox. Each API has a smoke
//! test of its own, and cases of what it adds (headers, sizes, framing, lists): NATS in `refusals.rs` and `hostile/`, the inbox
//! in `inbox.rs` and `hostile/inbox.rs`, HTTP in `http.rs` and `http_hostile/`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod others;
mod table;

use jiff::Timestamp;
use serde_json::json;
use spotreel_api::ImageSource;
use spotreel_api::{ApiError, ErrorCode};
use spotreel_domain::webhook::AllowedHosts;
use spotreel_intake::parse::{self, Submission};
use spotreel_intake::{error, images, permit_callback};
use table::Case;

/// Number of cases that the table must have at least.
const AT_LEAST: usize = 250;
/// Whoever sent a megabyte does not get it back.
const LONGEST_REFUSAL: usize = 4_000;

/// Panics with every case that is not refused as it must be.
fn check(cases: &[Case], judge: impl Fn(&[u8]) -> Result<(), ApiError>) {
    let mut wrong = Vec::new();
    for case in cases {
        let (name, field, rule) = (&case.name, case.field.as_str(), case.rule);
        let Err(refused) = judge(&case.payload) else {
            wrong.push(format!("{name}: wanted {field} {rule}, it is taken"));
            continue;
        };
        let first = refused.violations.first();
        let named = first.map(|first| (first.field.as_str(), first.rule.as_str()));
        let length = serde_json::to_vec(&refused).unwrap().len();
        if (refused.code, named) != (ErrorCode::Invalid, Some((field, rule)))
            || length > LONGEST_REFUSAL
        {
            wrong.push(format!("{name}: wanted {field} {rule}, got {refused:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All that is decided of a submitted task without a server.
fn submission(payload: &[u8]) -> Result<(), ApiError> {
    let Submission::One(request) = parse::submission(payload, None)? else {
        return Ok(());
    };
    // 2026-12-01T00:00:00Z.
    let now = Timestamp::from_second(1_796_083_200).unwrap();
    let valid = request.validate(now).map_err(error::invalid)?;
    permit_callback(&valid.spec, &AllowedHosts::default())?;
    let Some(ImageSource::Base64(text)) = &valid.image else {
        return Ok(());
    };
    let picture = images::decode_text(text)?;
    let examined = images::examine(&picture);
    let refuse = |flaw: images::Flaw| error::broken("image.base64", flaw.rule(), flaw.to_string());
    examined.map(drop).map_err(refuse)
}

#[test]
fn each_refusal_of_a_task_names_its_field_and_rule() {
    let cases = table::submissions();
    assert!(cases.len() >= AT_LEAST, "only {} cases", cases.len());
    check(&cases, submission);
    let good =
        json!({"model": "i2v-A14B", "prompt": "x", "image": {"base64": table::pictures::PICTURE}});
    assert!(submission(good.to_string().as_bytes()).is_ok());
}

#[test]
fn each_refusal_of_a_named_task_names_its_field_and_rule() {
    check(&others::named(), |payload| {
        parse::task_id(payload, None).map(drop)
    });
}

#[test]
fn each_refusal_of_a_quote_names_its_field_and_rule() {
    check(&others::quotes(), |payload| parse::quote(payload).map(drop));
}

#[test]
fn only_json_is_read() {
    let good = br#"{"model":"ti2v-5B","prompt":"x"}"#;
    for kind in others::OTHER_TYPES {
        let refused = parse::submission(good, Some(kind)).unwrap_err();
        let first = &refused.violations[0];
        assert_eq!(
            (first.field.as_str(), first.rule.as_str()),
            ("Content-Type", "known"),
            "{kind}"
        );
    }
}
