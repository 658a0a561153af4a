//! The requests that mean harm, and what each of them hears.

use crate::web;

#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// 0: closed without a word.
    pub status: u16,
    /// Code and field of the problem; empty: hyper's own answer, or none.
    pub code: &'static str,
    pub field: &'static str,
}

fn case(
    name: &'static str,
    bytes: impl Into<Vec<u8>>,
    status: u16,
    code: &'static str,
    field: &'static str,
) -> Case {
    Case {
        name,
        bytes: bytes.into(),
        status,
        code,
        field,
    }
}

pub fn all() -> Vec<Case> {
    [of_http(), of_paths(), of_words(), of_bodies()].concat()
}

/// A request without surprises but for those in its parts.
pub fn request(method: &str, target: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: spotreel\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub const JSON: &str = "Content-Type: application/json";

fn post(body: &[u8]) -> Vec<u8> {
    request("POST", "/v1/tasks", &[JSON], body)
}

fn post_with(headers: &[&str]) -> Vec<u8> {
    let mut all = vec![JSON];
    all.extend(headers);
    request(
        "POST",
        "/v1/tasks",
        &all,
        b"{\"model\":\"ti2v-5B\",\"prompt\":\"x\"}",
    )
}

/// What HTTP itself can be bent to.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn of_http() -> Vec<Case> {
    let huge_header = format!("X-Long: {}", "a".repeat(60_000));
    let many_headers: Vec<String> = (0..200).map(|n| format!("X-{n}: a")).collect();
    let many_headers: Vec<&str> = many_headers.iter().map(String::as_str).collect();
    vec![
        case("not HTTP", "hello\r\n\r\n", 400, "", ""),
        case("TLS", [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], 400, "", ""),
        case(
            "HTTP/2 preface",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            0,
            "",
            "",
        ),
        case(
            "a NUL in the target",
            "GET /v1/tasks\0 HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "",
            "",
        ),
        case(
            "a bare line feed in a header",
            "GET /v1/tasks HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            400,
            "",
            "",
        ),
        case(
            "a header without a colon",
            "GET /v1/tasks HTTP/1.1\r\nHost a\r\n\r\n",
            400,
            "",
            "",
        ),
        case(
            "a header of 60 kB",
            request("GET", "/v1/tasks", &[&huge_header], b""),
            431,
            "",
            "",
        ),
        case(
            "200 headers",
            request("GET", "/v1/tasks", &many_headers, b""),
            431,
            "",
            "",
        ),
        case(
            "a target of 60 kB",
            request(
                "GET",
                &format!("/v1/tasks/{}", "a".repeat(60_000)),
                &[],
                b"",
            ),
            431,
            "",
            "",
        ),
        case(
            "two lengths",
            post_with(&["Content-Length: 5"]),
            400,
            "",
            "",
        ),
        case(
            "a length that is no number",
            request("POST", "/v1/tasks", &[JSON, "Content-Length: -1"], b""),
            400,
            "",
            "",
        ),
        case(
            "a length beyond 64 bits",
            request(
                "POST",
                "/v1/tasks",
                &[JSON, "Content-Length: 99999999999999999999"],
                b"",
            ),
            400,
            "",
            "",
        ),
        case(
            "length and chunks",
            post_with(&["Transfer-Encoding: chunked"]),
            400,
            "invalid",
            "body",
        ),
        case(
            "an unknown transfer coding",
            request("POST", "/v1/tasks", &[JSON, "Transfer-Encoding: gzip"], b""),
            400,
            "",
            "",
        ),
        case(
            "a chunk that is no number",
            [
                &request(
                    "POST",
                    "/v1/tasks",
                    &[JSON, "Transfer-Encoding: chunked"],
                    b"",
                )[..],
                b"zz\r\n",
            ]
            .concat(),
            400,
            "invalid",
            "body",
        ),
        case(
            "a chunk beyond 64 bits",
            [
                &request(
                    "POST",
                    "/v1/tasks",
                    &[JSON, "Transfer-Encoding: chunked"],
                    b"",
                )[..],
                b"fffffffffffffffff\r\n",
            ]
            .concat(),
            400,
            "invalid",
            "body",
        ),
        case(
            "a body that is longer than it says",
            [
                &request("POST", "/v1/tasks", &[JSON, "Content-Length: 2"], b"")[..],
                b"{}trailing",
            ]
            .concat(),
            400,
            "invalid",
            "prompt",
        ),
        case(
            "no body",
            request("POST", "/v1/tasks", &[JSON], b""),
            400,
            "invalid",
            "body",
        ),
        case(
            "a length that no body may have",
            request(
                "POST",
                "/v1/tasks",
                &[JSON, "Content-Length: 4000000000"],
                b"",
            ),
            413,
            "too_large",
            "",
        ),
        case(
            "an unknown method",
            request("BREW", "/v1/tasks", &[], b""),
            405,
            "method_not_allowed",
            "",
        ),
        case(
            "TRACE",
            request("TRACE", "/v1/tasks", &[], b""),
            405,
            "method_not_allowed",
            "",
        ),
        case(
            "PUT",
            request("PUT", "/v1/tasks/a", &[JSON], b"{}"),
            405,
            "method_not_allowed",
            "",
        ),
        case(
            "PATCH on a video",
            request("PATCH", "/v1/tasks/a/video", &[JSON], b"{}"),
            405,
            "method_not_allowed",
            "",
        ),
        case(
            "CONNECT",
            request("CONNECT", "spotreel:80", &[], b""),
            404,
            "not_found",
            "",
        ),
        case(
            "a method in lower case",
            request("post", "/v1/tasks", &[JSON], b"{}"),
            405,
            "method_not_allowed",
            "",
        ),
    ]
}

/// Addresses that lead somewhere else.
fn of_paths() -> Vec<Case> {
    let broken =
        |name, target: &str| case(name, request("GET", target, &[], b""), 400, "invalid", "id");
    let nothing =
        |name, target: &str| case(name, request("GET", target, &[], b""), 404, "not_found", "");
    vec![
        broken("dots in an id", "/v1/tasks/a.b"),
        broken("a subject as an id", "/v1/tasks/%3E"),
        broken("a wildcard as an id", "/v1/tasks/%2A"),
        broken("a slash in an id", "/v1/tasks/..%2F..%2Fetc"),
        broken("a NUL in an id", "/v1/tasks/a%00"),
        broken("a line feed in an id", "/v1/tasks/a%0d%0aX-Evil:%201"),
        broken("broken UTF-8 in an id", "/v1/tasks/%ff%fe"),
        broken("a blank as an id", "/v1/tasks/%20"),
        broken("an id of 65", &format!("/v1/tasks/{}", "a".repeat(65))),
        broken("a broken escape", "/v1/tasks/%zz"),
        broken("dots in the id of events", "/v1/tasks/a.b/events"),
        broken("dots in the id of a video", "/v1/tasks/a.b/video"),
        nothing("a path that nobody serves", "/index.html"),
        nothing("dots in a path", "/v1/../etc/passwd"),
        nothing("escaped dots in a path", "/v1/%2e%2e/%2e%2e/etc/passwd"),
        nothing("two slashes", "/v1//tasks"),
        nothing("a slash behind", "/v1/tasks/"),
        nothing("another version", "/v2/tasks"),
        nothing("the metrics of another port", "/metrics"),
        nothing("nobody's task", "/v1/tasks/nobody"),
        nothing("nobody's events", "/v1/tasks/nobody/events"),
        nothing("nobody's video", "/v1/tasks/nobody/video"),
        case(
            "nobody's task, cancelled",
            request("DELETE", "/v1/tasks/nobody", &[], b""),
            404,
            "not_found",
            "",
        ),
        case(
            "nobody's task, retried",
            request("POST", "/v1/tasks/nobody/retry", &[], b""),
            404,
            "not_found",
            "",
        ),
    ]
}

/// Queries and headers.
fn of_words() -> Vec<Case> {
    let query = |name, query: &str, field| {
        case(
            name,
            request("GET", &format!("/v1/tasks?{query}"), &[], b""),
            400,
            "invalid",
            field,
        )
    };
    let events = |name, id: &str| {
        case(
            name,
            request("GET", "/v1/events", &[id], b""),
            400,
            "invalid",
            "Last-Event-ID",
        )
    };
    vec![
        query("a negative limit", "limit=-1", "limit"),
        query("a limit of 501", "limit=501", "limit"),
        query("a limit beyond 32 bits", "limit=99999999999", "limit"),
        query("a limit twice", "limit=1&limit=2", "limit"),
        query("a cursor that is none", "cursor=%27%20OR%201=1", "cursor"),
        query("a negative cursor", "cursor=-5", "cursor"),
        query("an unknown state", "state=%00", "state"),
        query("an unknown model", "model=../../ti2v-5B", "model"),
        query("an unknown word", "page=2", "page"),
        query("an owner that is none", "owner=Anna!", "owner"),
        query("a label of nothing", "label=", "label"),
        query("an id that cannot begin so", "id_prefix=a.b", "id_prefix"),
        query("a time that is none", "since=yesterday", "since"),
        case("all tasks, cancelled", request("DELETE", "/v1/tasks", &[], b""), 400, "invalid", "id"),
        case("ended tasks, cancelled", request("DELETE", "/v1/tasks?state=failed", &[], b""), 400, "invalid", "state"),
        query("broken UTF-8", "state=%ff", "state"),
        events("words for an event id", "Last-Event-ID: last"),
        events("a negative event id", "Last-Event-ID: -1"),
        events("an event id beyond 64 bits", "Last-Event-ID: 18446744073709551616"),
        events("the last of all event ids", "Last-Event-ID: 18446744073709551615"),
        case("an idempotency key of nothing", post_with(&["Idempotency-Key: "]), 400, "invalid", "Idempotency-Key"),
        case("an idempotency key of 201", post_with(&[&format!("Idempotency-Key: {}", "k".repeat(201))]), 400, "invalid", "Idempotency-Key"),
        case("two idempotency keys", post_with(&["Idempotency-Key: a", "Idempotency-Key: b"]), 400, "invalid", "Idempotency-Key"),
        case("an idempotency key that is no text", [&b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nIdempotency-Key: \xff\r\nContent-Length: 2\r\n\r\n{}"[..]].concat(), 400, "invalid", "Idempotency-Key"),
        case("no type", request("POST", "/v1/tasks", &[], b"{}"), 415, "unsupported_media_type", ""),
        case("a form", request("POST", "/v1/tasks", &["Content-Type: application/x-www-form-urlencoded"], b"model=x"), 415, "unsupported_media_type", ""),
        case("plain text", request("POST", "/v1/tasks", &["Content-Type: text/plain"], b"{}"), 415, "unsupported_media_type", ""),
        case("protobuf", request("POST", "/v1/tasks", &["Content-Type: application/protobuf"], b"\x0a\x01x"), 415, "unsupported_media_type", ""),
        case("two types", request("POST", "/v1/tasks", &[JSON, "Content-Type: text/plain"], b"{}"), 415, "unsupported_media_type", ""),
        case("a type that is no text", b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: \xff\r\nContent-Length: 2\r\n\r\n{}".to_vec(), 415, "unsupported_media_type", ""),
        case("a quote without a type", request("POST", "/v1/quotes", &[], b"{}"), 415, "unsupported_media_type", ""),
        case("gzip", post_with(&["Content-Encoding: gzip"]), 415, "unsupported_media_type", ""),
        case("gzip in gzip", post_with(&["Content-Encoding: gzip, gzip"]), 415, "unsupported_media_type", ""),
        case("a picture as text", request("POST", "/v1/images", &["Content-Type: text/html"], b"<script>"), 415, "unsupported_media_type", ""),
        case("a picture as a form", request("POST", "/v1/images", &["Content-Type: multipart/form-data; boundary=x"], b"--x--"), 415, "unsupported_media_type", ""),
        case("SVG", request("POST", "/v1/images", &["Content-Type: image/svg+xml"], b"<svg/>"), 415, "unsupported_media_type", ""),
    ]
}

/// Bodies. What JSON can be bent to is in `rules/`: the parser behind this API is the same.
fn of_bodies() -> Vec<Case> {
    let invalid = |name, body: &[u8], field| case(name, post(body), 400, "invalid", field);
    let png = request(
        "POST",
        "/v1/images",
        &["Content-Type: image/png"],
        b"\x89PNG\r\n\x1a\n",
    );
    // 60,000 by 60,000 pixels.
    let mut bomb = web::png(16, 16);
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let deep = "[".repeat(100_000);
    let deep_task = format!("{{\"task\":{deep}}}");
    let lines = |body: &[u8]| {
        request(
            "POST",
            "/v1/tasks",
            &["Content-Type: application/jsonl"],
            body,
        )
    };
    vec![
        invalid("broken UTF-8", b"{\"model\":\"\xc3\x28\"}", "body"),
        invalid(
            "half a surrogate",
            br#"{"model":"ti2v-5B","prompt":"\ud800"}"#,
            "prompt",
        ),
        invalid("100,000 brackets", deep.as_bytes(), "body"),
        case(
            "a quote for brackets",
            request("POST", "/v1/quotes", &[JSON], deep_task.as_bytes()),
            400,
            "invalid",
            "task",
        ),
        case(
            "a quote for a list as a task",
            request("POST", "/v1/quotes", &[JSON], br#"{"task":["ti2v-5B"]}"#),
            400,
            "invalid",
            "task",
        ),
        case("a picture that is none", png, 400, "invalid", "body"),
        case(
            "a picture of 3.6 billion pixels",
            request("POST", "/v1/images", &["Content-Type: image/png"], &bomb),
            400,
            "invalid",
            "body",
        ),
        case(
            "a picture of 21 MB",
            request(
                "POST",
                "/v1/images",
                &["Content-Type: image/png", "Content-Length: 21000000"],
                b"",
            ),
            413,
            "too_large",
            "",
        ),
        case("lines of nothing", lines(b"\n\n \r\n\n"), 200, "", ""),
        case(
            "lines of rubbish",
            lines(b"\0\n\xff\n]\n[{}]\nnull\n"),
            200,
            "",
            "",
        ),
    ]
}
