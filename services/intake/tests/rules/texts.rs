//! Bytes that are no JSON, JSON that is no task, and texts that are more than they look.

use super::{Case, case, with};

pub fn cases() -> Vec<Case> {
    let mut cases = encodings();
    cases.extend(syntax());
    cases.extend(shapes());
    cases.extend(fields());
    cases
}

fn encodings() -> Vec<Case> {
    let good = br#"{"model":"ti2v-5B","prompt":"a red fox"}"#;
    let wide = |order: fn(u16) -> [u8; 2]| {
        good.iter()
            .flat_map(|byte| order(u16::from(*byte)))
            .collect::<Vec<u8>>()
    };
    let prompt = |bytes: &[u8]| [br#"{"model":"ti2v-5B","prompt":""#, bytes, br#""}"#].concat();
    vec![
        case(
            "UTF-16, little end first",
            [&b"\xff\xfe"[..], &wide(u16::to_le_bytes)].concat(),
            "body",
            "utf8",
        ),
        case(
            "UTF-16 without a mark",
            wide(u16::to_be_bytes),
            "body",
            "object",
        ),
        case("an overlong slash", prompt(b"\xc0\xaf"), "body", "utf8"),
        case(
            "a surrogate as UTF-8",
            prompt(b"\xed\xa0\x80"),
            "body",
            "utf8",
        ),
        case(
            "beyond Unicode",
            prompt(b"\xf4\x90\x80\x80"),
            "body",
            "utf8",
        ),
        case(
            "a character that breaks off",
            prompt(b"\xe2\x82"),
            "body",
            "utf8",
        ),
        case("Latin 1", prompt(b"f\xfcchse"), "body", "utf8"),
        case(
            "gzip",
            &b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xabVJ"[..],
            "body",
            "utf8",
        ),
        case("only NUL", vec![0; 1 << 20], "body", "object"),
        case("a NUL behind", [&good[..], b"\0"].concat(), "body", "json"),
        case("only line breaks", vec![b'\n'; 1 << 20], "body", "required"),
        case(
            "half a pair of surrogates",
            prompt(br"\ud83e"),
            "prompt",
            "json",
        ),
        case("the other half", prompt(br"\udd8a"), "prompt", "json"),
        case(
            "two first halves",
            prompt(br"\ud83e\ud83e"),
            "prompt",
            "json",
        ),
        case(
            "half a pair, then a letter",
            prompt(br"\ud83e\u0041"),
            "prompt",
            "json",
        ),
        case("an escape of nothing", prompt(br"\u00zz"), "prompt", "json"),
        case("an escape that is none", prompt(br"\x41"), "prompt", "json"),
        case(
            "a bare line break in a text",
            prompt(b"a\r\nb"),
            "prompt",
            "json",
        ),
        case(
            "an escaped NUL",
            prompt(br"a\u0000b"),
            "prompt",
            "printable",
        ),
        case(
            "an escaped escape",
            prompt(br"\u001b[2J"),
            "prompt",
            "printable",
        ),
        case(
            "an old control character",
            prompt(br"\u009f"),
            "prompt",
            "printable",
        ),
    ]
}

fn syntax() -> Vec<Case> {
    vec![
        case(
            "a hundred thousand brackets",
            "[".repeat(100_000),
            "body",
            "json",
        ),
        case("a comment", "{/* */\"model\":\"ti2v-5B\"}", "body", "json"),
        case(
            "two objects",
            r#"{"model":"ti2v-5B","prompt":"x"}{"model":"ti2v-5B","prompt":"x"}"#,
            "body",
            "json",
        ),
        case(
            "lines of JSON",
            "{\"model\":\"ti2v-5B\",\"prompt\":\"x\"}\n{}",
            "body",
            "json",
        ),
        case(
            "an object that does not end",
            r#"{"model":"ti2v-5B","prompt":"x""#,
            "body",
            "json",
        ),
        case(
            "a list that does not end",
            r#"[{"model":"ti2v-5B","prompt":"x"}"#,
            "body",
            "json",
        ),
        case(
            "a key without quotes",
            r#"{model:"ti2v-5B"}"#,
            "body",
            "json",
        ),
        case("a form", "model=ti2v-5B&prompt=x", "body", "object"),
        case("YAML", "model: ti2v-5B\nprompt: x", "body", "object"),
        case(
            "XML with an entity",
            "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a>&b;</a>",
            "body",
            "object",
        ),
        case(
            "protobuf",
            &b"\x0a\x07ti2v-5B\x12\x01x"[..],
            "body",
            "object",
        ),
        case(
            "HTTP",
            "POST /v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n{}",
            "body",
            "object",
        ),
        case(
            "NATS itself",
            "PUB spotreel.log.x.queued.ti2v-5B.0 2\r\nhi\r\n",
            "body",
            "object",
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn shapes() -> Vec<Case> {
    let deep =
        |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    let keys: String = (0..100_000).map(|n| format!("\"k{n}\":0,")).collect();
    let labels: String = (0..100_000).map(|n| format!("\"k{n}\":\"\",")).collect();
    vec![
        case(
            "lists in lists",
            format!("{{\"prompt\":{}}}", deep("[", "]")),
            "prompt",
            "type",
        ),
        case(
            "objects in objects",
            format!("{{\"image\":{}}}", deep("{\"a\":", "}")),
            "image",
            "known",
        ),
        case(
            "lists in a field that is none",
            format!("{{\"x\":{}}}", deep("[", "]")),
            "x",
            "unknown",
        ),
        case(
            "a key of a megabyte",
            format!("{{\"{}\":0}}", "k".repeat(1 << 20)),
            "k".repeat(400) + "…",
            "unknown",
        ),
        case(
            "a hundred thousand keys",
            format!("{{{keys}\"z\":0}}"),
            "k0",
            "unknown",
        ),
        with(
            "labels",
            &format!("{{{labels}\"z\":\"\"}}"),
            "labels",
            "count",
        ),
        case(
            "a prototype",
            r#"{"__proto__":{"model":"ti2v-5B"},"prompt":"x"}"#,
            "__proto__",
            "unknown",
        ),
        case(
            "a key twice, once in disguise",
            r#"{"prompt":"x","model":"ti2v-5B","mod\u0065l":"i2v-A14B"}"#,
            "model",
            "once",
        ),
        case(
            "a prompt twice",
            r#"{"model":"ti2v-5B","prompt":"x","prompt":"y"}"#,
            "prompt",
            "once",
        ),
        case(
            "an id twice",
            r#"{"model":"ti2v-5B","prompt":"x","id":"a","id":"b"}"#,
            "id",
            "once",
        ),
        with("labels", r#"{"a":"x","a":"y"}"#, "labels", "once"),
        case(
            "another case",
            r#"{"Model":"ti2v-5B","prompt":"x"}"#,
            "Model",
            "unknown",
        ),
        case(
            "a key that looks the same",
            "{\"m\u{43e}del\":\"ti2v-5B\",\"prompt\":\"x\"}",
            "m\u{43e}del",
            "unknown",
        ),
        case(
            "a key with a NUL",
            r#"{"model\u0000":"ti2v-5B","prompt":"x"}"#,
            "model\0",
            "unknown",
        ),
        case(
            "state that is ours",
            r#"{"model":"ti2v-5B","prompt":"x","state":"succeeded"}"#,
            "state",
            "unknown",
        ),
        case(
            "an owner that is ours",
            r#"{"model":"ti2v-5B","prompt":"x","owner":"root"}"#,
            "owner",
            "unknown",
        ),
        case(
            "wire fields",
            r#"{"model":"ti2v-5B","prompt":"x","content_hash":"0"}"#,
            "content_hash",
            "unknown",
        ),
    ]
}

fn fields() -> Vec<Case> {
    let quoted = |text: &str| serde_json::json!(text).to_string();
    let mut cases = vec![
        with("prompt", &quoted(&"🦊".repeat(2_001)), "prompt", "length"),
        // Each becomes three characters in NFC.
        with(
            "prompt",
            &quoted(&"\u{1d160}".repeat(1_000)),
            "prompt",
            "length",
        ),
        with(
            "prompt",
            &quoted("\u{3000}\u{a0}\u{2028}"),
            "prompt",
            "length",
        ),
        with("prompt", &quoted(&"x".repeat(7 << 20)), "prompt", "length"),
        with("prompt", "{\"$ne\":null}", "prompt", "type"),
        with("prompt", "null", "prompt", "type"),
        with(
            "negative_prompt",
            &quoted("a\u{0}"),
            "negative_prompt",
            "printable",
        ),
        with("model", &quoted("ti2v-5B\u{0}"), "model", "known"),
        with("model", &quoted("../i2v-A14B"), "model", "known"),
        with("model", &quoted(">"), "model", "known"),
        with("model", &quoted("ti2v\u{2010}5B"), "model", "known"),
        with("size", &quoted("1280\u{d7}704"), "size", "known"),
        with("size", &quoted("1280X704"), "size", "known"),
        with("size", &quoted(" 1280x704"), "size", "known"),
        with("size", &quoted("99999999999999999999x1"), "size", "known"),
        with(
            "idempotency_key",
            &quoted(&"é".repeat(129)),
            "idempotency_key",
            "length",
        ),
        with("priority", &quoted("High"), "priority", "known"),
        with("labels", "null", "labels", "type"),
        with("labels", "[[\"a\",\"b\"]]", "labels", "type"),
        with("labels", "{\"a\":null}", "labels.a", "type"),
        with("labels", "{\"a\\nb\":\"x\"}", "labels", "text"),
        with("labels", "{\"a\":\"\\u0000\"}", "labels", "text"),
        with(
            "expires_at",
            &quoted("2016-12-31T23:59:60Z"),
            "expires_at",
            "future",
        ),
        with(
            "expires_at",
            &quoted("-009999-01-02T00:00:00Z"),
            "expires_at",
            "format",
        ),
        with(
            "expires_at",
            &quoted("9999-99-99T00:00:00Z"),
            "expires_at",
            "format",
        ),
        with("expires_at", &quoted("2099-01-01"), "expires_at", "format"),
        with("expires_at", &quoted(""), "expires_at", "format"),
        with("expires_at", "4102444800", "expires_at", "type"),
    ];
    for id in [
        "..",
        "a/b",
        "a b",
        ">",
        "a>",
        "$JS",
        "é",
        "\u{202e}fox",
        "a\u{0}",
        "a\r\nNats-Rollup: all",
        "%2e%2e",
        "fox.queued.ti2v-5B.0",
        "'; drop table tasks; --",
        "\u{fe0f}",
        "a\u{200b}",
    ] {
        cases.push(with("id", &quoted(id), "id", "token"));
    }
    cases.push(with("id", "[\"a\"]", "id", "type"));
    cases.push(with("id", "{}", "id", "type"));
    cases
}
