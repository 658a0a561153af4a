//! Bytes that are no text, lines that break, and what is too long for a line of the tables.

use serde_json::json;

use super::{Case, case, with};

pub fn cases() -> Vec<Case> {
    let mut cases = encodings();
    cases.extend(lines());
    cases.extend(long());
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
    let marked = [&b"\xff\xfe"[..], &wide(u16::to_le_bytes)].concat();
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xabVJ".to_vec();
    let behind = [&good[..], b"\0"].concat();
    let overlong = prompt(b"\xc0\xaf");
    let beyond = prompt(b"\xf4\x90\x80\x80");
    vec![
        case("UTF-16, little end first", marked, "body", "utf8"),
        case("UTF-16", wide(u16::to_be_bytes), "body", "object"),
        case("an overlong slash", overlong, "body", "utf8"),
        case("a surrogate", prompt(b"\xed\xa0\x80"), "body", "utf8"),
        case("beyond Unicode", beyond, "body", "utf8"),
        case("half a character", prompt(b"\xe2\x82"), "body", "utf8"),
        case("Latin 1", prompt(b"f\xfcchse"), "body", "utf8"),
        case("gzip", gzip, "body", "utf8"),
        case("protobuf", b"\x0a\x07ti2v-5B\x12\x01x", "body", "object"),
        case("only NUL", vec![0; 1 << 20], "body", "object"),
        case("a NUL behind", behind, "body", "json"),
        case("a NUL in a text", prompt(b"a\0b"), "prompt", "json"),
        case("a bare line break", prompt(b"a\r\nb"), "prompt", "json"),
    ]
}

fn lines() -> Vec<Case> {
    let http = "POST /v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n{}";
    let nats = "PUB spotreel.log.x.queued.ti2v-5B.0 2\r\nhi\r\n";
    let json = "{\"model\":\"ti2v-5B\",\"prompt\":\"x\"}\n{}";
    let disguised = "{\"m\u{43e}del\":\"ti2v-5B\",\"prompt\":\"x\"}";
    let nul = r#"{"model\u0000":"ti2v-5B","prompt":"x"}"#;
    vec![
        case("nothing", "", "body", "required"),
        case("blanks", " \r\n\t ", "body", "required"),
        case("line breaks", vec![b'\n'; 1 << 20], "body", "required"),
        case("YAML", "model: ti2v-5B\nprompt: x", "body", "object"),
        case("HTTP", http, "body", "object"),
        case("NATS itself", nats, "body", "object"),
        case("lines of JSON", json, "body", "json"),
        case("a key in disguise", disguised, "m\u{43e}del", "unknown"),
        case("a key with a NUL", nul, "model\0", "unknown"),
    ]
}

fn long() -> Vec<Case> {
    let text = |text: &str, times| json!(text.repeat(times)).to_string();
    let deep =
        |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    let labels = |count| {
        let labels: String = (0..count).map(|n| format!("\"k{n}\":\"\",")).collect();
        format!("{{{labels}\"z\":\"\"}}")
    };
    let keys: String = (0..100_000).map(|n| format!("\"k{n}\":0,")).collect();
    let keys = format!("{{{keys}\"z\":0}}");
    let key = format!("{{\"{}\":0}}", "k".repeat(1 << 20));
    let lists = format!("{{\"prompt\":{}}}", deep("[", "]"));
    let objects = format!("{{\"image\":{}}}", deep("{\"a\":", "}"));
    let unknown = format!("{{\"x\":{}}}", deep("[", "]"));
    let number = "9".repeat(100_000);
    let fraction = format!("0.{}1", "0".repeat(100_000));
    let label = json!({"a": "x".repeat(129)}).to_string();
    let nested = deep("{\"a\":", "}");
    let (idempotency, negative) = ("idempotency_key", "negative_prompt");
    vec![
        case("brackets", "[".repeat(100_000), "body", "json"),
        case("lists in lists", lists, "prompt", "type"),
        case("objects in objects", objects, "image", "known"),
        case("lists in no field", unknown, "x", "unknown"),
        case("a long key", key, "k".repeat(400) + "…", "unknown"),
        case("many keys", keys, "k0", "unknown"),
        with("labels", &labels(16), "labels", "count"),
        with("labels", &labels(100_000), "labels", "count"),
        with("labels", &label, "labels", "text"),
        with("labels", &nested, "labels.a", "type"),
        with("model", &text("x", 1_000_000), "model", "known"),
        with("prompt", &text("x", 2_001), "prompt", "length"),
        with("prompt", &text("x", 7 << 20), "prompt", "length"),
        with("prompt", &text("🦊", 2_001), "prompt", "length"),
        // Each becomes three characters in NFC.
        with("prompt", &text("\u{1d160}", 1_000), "prompt", "length"),
        with(negative, &text("x", 2_001), negative, "length"),
        with("id", &text("x", 65), "id", "token"),
        with(idempotency, &text("x", 257), idempotency, "length"),
        with(idempotency, &text("é", 129), idempotency, "length"),
        with("guidance", &number, "guidance", "range"),
        with("guidance", &fraction, "guidance", "range"),
        with("frames", &number, "frames", "range"),
    ]
}
