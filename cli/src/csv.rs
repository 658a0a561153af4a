//! Rows of comma-separated values (RFC 4180), for spreadsheets.

use crate::print::line;

/// What a spreadsheet takes for the beginning of a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

pub fn row<'a>(fields: impl IntoIterator<Item = &'a str>) {
    line(&row_of(fields));
}

fn row_of<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let fields: Vec<String> = fields.into_iter().map(field).collect();
    fields.join(",")
}

/// A text that clients chose could be a formula: the apostrophe makes it a text. A number stays one.
fn field(text: &str) -> String {
    let is_number = text.parse::<f64>().is_ok();
    let text = match text.starts_with(FORMULA) && !is_number {
        true => format!("'{text}"),
        false => text.to_owned(),
    };
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_cannot_break_out_of_their_field() {
        let row = row_of([
            "2026-11-30",
            "-0.25",
            "a, b",
            "say \"hi\"",
            "=HYPERLINK(\"http://x\")",
            "-1+cmd",
            "@x",
            "",
            "狐狸",
        ]);
        let expected = "2026-11-30,-0.25,\"a, b\",\"say \"\"hi\"\"\",\"'=HYPERLINK(\"\"http://x\"\")\",'-1+cmd,'@x,,狐狸";
        assert_eq!(row, expected);
    }
}
