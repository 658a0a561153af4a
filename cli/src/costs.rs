//! `spotreel receipt` and `spotreel cost`: what tasks and batches cost, and for what.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use spotreel_api::{BatchReceipt, CostsQuery, ErrorCode, ReceiptQuery, TaskReceipt};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;
use spotreel_domain::Usd;
use spotreel_domain::allocation::{
    CostGroup, CostLines, CostReport, CostRow, InstanceLine, TimeSplit,
};
use spotreel_domain::batch::BatchId;

use crate::args::{CostArgs, CostFormat, ReceiptArgs};
use crate::connection::{Api, CallError, Settings};
use crate::csv;
use crate::done::Done;
use crate::fleet::word;
use crate::print::{self, count, field, line, short, span, table};

/// Widest key of a row: labels may be long.
const WIDEST: usize = 40;
const LINES: [&str; 8] = [
    "boot",
    "load",
    "rendering",
    "idle",
    "interrupted",
    "volume",
    "address",
    "credit",
];

pub async fn receipt(settings: &Settings, args: ReceiptArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let format = format(args.format, args.json);
    let may_be_batch = !args.task && BatchId::parse(&args.id).is_some();
    if may_be_batch {
        let query = ReceiptQuery {
            batch: Some(args.id.clone()),
            tasks: Some(args.tasks),
            ..ReceiptQuery::default()
        };
        match api.call(names::RECEIPT, &query).await {
            Ok(receipt) => {
                show_batch(&receipt, format);
                return Ok(Done::Well);
            }
            // A task may have such a name, too.
            Err(CallError::Refused(error)) if error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let query = ReceiptQuery {
        task: Some(api.whole_id(args.id.clone()).await?),
        ..ReceiptQuery::default()
    };
    let receipt = api.call(names::RECEIPT, &query).await;
    let receipt = receipt.map_err(|error| not_found(error, &args.id, may_be_batch))?;
    show_task(&receipt, format);
    Ok(Done::Well)
}

/// Says what was looked for.
fn not_found(error: CallError, id: &str, may_be_batch: bool) -> anyhow::Error {
    match error {
        CallError::Refused(refused) if refused.code == ErrorCode::NotFound => {
            let (kinds, lists) = match may_be_batch {
                true => (
                    "no batch and no task",
                    "`spotreel batches` and `spotreel list`",
                ),
                false => ("no task", "`spotreel list`"),
            };
            anyhow::anyhow!("there is {kinds} {id}: {lists} print those that exist")
        }
        error => error.into(),
    }
}

pub async fn cost(settings: &Settings, args: CostArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let query = CostsQuery {
        from: args.from.or_else(|| {
            let to = args.to.unwrap_or_else(|| tomorrow(ambient::now()));
            Some(to.saturating_sub(Span::new().days(args.days?)))
        }),
        to: args.to,
        by: args.by,
        owner: args.owner,
    };
    let report: CostReport = api.call(names::COSTS, &query).await?;
    match format(args.format, args.json) {
        CostFormat::Json => print::json(&report),
        CostFormat::Csv => {
            let head = [report.by.to_string()];
            let head = head.iter().map(String::as_str);
            csv::row(head.chain(["total", "videos"]).chain(LINES));
            for row in &report.rows {
                let cells = [
                    row.key.clone().unwrap_or_default(),
                    row.total.to_decimal(),
                    row.videos.to_string(),
                ];
                csv_row(&cells, &row.lines);
            }
        }
        CostFormat::Table => show_report(&report),
    }
    Ok(Done::Well)
}

fn format(format: CostFormat, json: bool) -> CostFormat {
    if json { CostFormat::Json } else { format }
}

fn tomorrow(now: Timestamp) -> Date {
    let today = now.to_zoned(TimeZone::UTC).date();
    today.saturating_add(Span::new().days(1))
}

fn csv_row<const N: usize>(cells: &[String; N], lines: &CostLines) {
    let lines = lines.each().map(|(_, amount)| amount.to_decimal());
    csv::row(cells.iter().chain(&lines).map(String::as_str));
}

fn show_report(report: &CostReport) {
    let last = report.to.saturating_sub(Span::new().days(1));
    field("days", &format!("{} to {last}, UTC", report.from));
    field("total", &money(report.total));
    let month = money(report.projected_month);
    let mean = money(report.mean_per_day);
    field("a day", &format!("{mean}, which makes {month} a month"));
    if let Some(highest) = &report.highest_day {
        field(
            "highest",
            &format!("{} on {}", money(highest.total), highest.day),
        );
    }
    let videos = usize::try_from(report.videos).unwrap_or(usize::MAX);
    let each = match i64::try_from(report.videos) {
        Ok(videos @ 1..) => format!(
            ", {} each",
            Usd::from_micros(report.total.micros() / videos)
        ),
        _ => String::new(),
    };
    field("videos", &format!("{videos}{each}"));
    if report.rows.is_empty() {
        return;
    }
    line("");
    let by = report.by.to_string().to_uppercase();
    let header = [
        &by,
        "TOTAL",
        "VIDEOS",
        "RENDERING",
        "LOAD",
        "BOOT",
        "IDLE",
        "WASTED",
        "DISK, IP",
        "CREDIT",
    ];
    let rows = report.rows.iter().map(|row| cost_row(row, &report.by));
    table(header, &rows.collect::<Vec<_>>());
}

fn cost_row(row: &CostRow, by: &CostGroup) -> [String; 10] {
    let none = match by {
        CostGroup::Day | CostGroup::Month | CostGroup::Batch | CostGroup::Pool => "others",
        CostGroup::Model | CostGroup::Owner | CostGroup::Label(_) => "none, or others",
    };
    let lines = &row.lines;
    [
        row.key
            .as_ref()
            .map_or(none.to_owned(), |key| short(key, WIDEST)),
        money(row.total),
        row.videos.to_string(),
        money(lines.rendering),
        money(lines.load),
        money(lines.boot),
        money(lines.idle),
        money(lines.interrupted),
        money(lines.volume + lines.address),
        money(lines.credit),
    ]
}

fn show_batch(receipt: &BatchReceipt, format: CostFormat) {
    match format {
        CostFormat::Json => return print::json(receipt),
        CostFormat::Csv => {
            csv::row(["kind", "id", "total"].into_iter().chain(LINES));
            for one in &receipt.instances {
                let cells = [
                    "instance".into(),
                    one.instance.clone(),
                    one.total.to_decimal(),
                ];
                csv_row(&cells, &one.lines);
            }
            for task in &receipt.tasks {
                let cells = [
                    "task".into(),
                    task.task.to_string(),
                    task.total.to_decimal(),
                ];
                csv_row(&cells, &task.lines);
            }
            return;
        }
        CostFormat::Table => {}
    }
    field("batch", &receipt.batch.to_string());
    field("cost", &so_far(receipt.total, receipt.is_final));
    show_lines(
        &receipt.lines,
        &times(receipt.instances.iter().map(|one| one.time)),
    );
    line("");
    let header = [
        "INSTANCE", "TYPE", "ZONE", "HOW", "BOOT", "LOAD", "RENDERED", "IDLE", "WASTED", "COST",
    ];
    let rows: Vec<_> = receipt.instances.iter().map(instance_row).collect();
    table(header, &rows);
    if receipt.tasks.is_empty() {
        return;
    }
    line("");
    let rows: Vec<_> = receipt
        .tasks
        .iter()
        .map(|task| {
            [
                short(task.task.as_str(), WIDEST),
                task.model.to_string(),
                task.attempts.to_string(),
                seconds(task.time.rendering_ms),
                seconds(task.time.interrupted_ms),
                money(task.lines.load + task.lines.rendering + task.lines.interrupted),
                money(shared(&task.lines)),
                money(task.lines.credit),
                money(task.total),
            ]
        })
        .collect();
    table(
        [
            "TASK", "MODEL", "TRIES", "RENDERED", "WASTED", "OWN", "SHARED", "CREDIT", "COST",
        ],
        &rows,
    );
    let others = receipt.task_count.saturating_sub(receipt.tasks.len());
    if others > 0 {
        line(&format!(
            "and {} for {}",
            count(others, "more task"),
            money(receipt.other_tasks)
        ));
    }
}

fn show_task(receipt: &TaskReceipt, format: CostFormat) {
    match format {
        CostFormat::Json => return print::json(receipt),
        CostFormat::Csv => {
            let head = ["batch", "attempt", "instance", "total"];
            csv::row(head.into_iter().chain(LINES));
            for batch in &receipt.batches {
                for one in &batch.attempts {
                    let cells = [
                        batch.batch.to_string(),
                        one.number.to_string(),
                        one.instance.clone(),
                        one.total.to_decimal(),
                    ];
                    csv_row(&cells, &one.lines);
                }
            }
            return;
        }
        CostFormat::Table => {}
    }
    field("task", receipt.task.as_str());
    field("cost", &so_far(receipt.total, receipt.is_final));
    show_lines(&receipt.lines, &receipt.time);
    let rows: Vec<_> = receipt
        .batches
        .iter()
        .flat_map(|batch| batch.attempts.iter().map(move |one| (batch, one)))
        .map(|(batch, one)| {
            [
                one.number.to_string(),
                batch.batch.to_string(),
                one.instance.clone(),
                one.kind.clone(),
                format!("{} {}", one.zone, one.lifecycle.as_str()),
                word(&one.outcome),
                seconds(one.time.load_ms),
                seconds(one.time.rendering_ms),
                seconds(one.time.interrupted_ms),
                money(one.total),
            ]
        })
        .collect();
    if !rows.is_empty() {
        line("");
        table(
            [
                "TRY", "BATCH", "INSTANCE", "TYPE", "ZONE", "END", "LOAD", "RENDERED", "WASTED",
                "COST",
            ],
            &rows,
        );
    }
    if receipt.unpriced_attempts > 0 {
        let attempts = count(receipt.unpriced_attempts as usize, "attempt");
        line(&format!(
            "{attempts} without a known cost: on your own machines, or older than the ledger"
        ));
    }
}

fn instance_row(one: &InstanceLine) -> [String; 10] {
    let time = &one.time;
    [
        one.instance.clone(),
        one.kind.clone(),
        format!("{} {}", one.zone, one.lifecycle.as_str()),
        one.ending.map_or_else(String::new, |ending| word(&ending)),
        seconds(time.boot_ms),
        seconds(time.load_ms),
        seconds(time.rendering_ms),
        seconds(time.idle_ms),
        seconds(time.interrupted_ms),
        money(one.total),
    ]
}

/// The lines of a bill that are not zero, with the time that they paid for.
fn show_lines(lines: &CostLines, time: &TimeSplit) {
    for (name, amount) in lines.each() {
        if amount == Usd::ZERO {
            continue;
        }
        let of = match name {
            "boot" => time.boot_ms,
            "load" => time.load_ms,
            "rendering" => time.rendering_ms,
            "idle" => time.idle_ms,
            "interrupted" => time.interrupted_ms,
            _ => 0,
        };
        let spent = match of {
            0 => String::new(),
            ms => format!("  {}", seconds(ms)),
        };
        line(&format!("  {name:<13}{:>12}{spent}", amount.to_string()));
    }
}

fn times(all: impl Iterator<Item = TimeSplit>) -> TimeSplit {
    let mut sum = TimeSplit::default();
    all.for_each(|one| sum += one);
    sum
}

fn shared(lines: &CostLines) -> Usd {
    lines.boot + lines.idle + lines.volume + lines.address
}

fn so_far(total: Usd, is_final: bool) -> String {
    match is_final {
        true => total.to_string(),
        false => format!("{total} so far"),
    }
}

fn money(amount: Usd) -> String {
    match amount {
        Usd::ZERO => "-".to_owned(),
        amount => amount.to_string(),
    }
}

fn seconds(ms: u64) -> String {
    match ms {
        0 => "-".to_owned(),
        ms => span(ms.div_ceil(1_000)),
    }
}

#[cfg(test)]
mod tests {
    use spotreel_api::ApiError;

    use super::*;

    fn said(code: ErrorCode, may_be_batch: bool) -> String {
        let refused = CallError::Refused(ApiError {
            code,
            message: "there is no task default-99".into(),
            violations: Vec::new(),
            retry_after_s: None,
        });
        not_found(refused, "default-99", may_be_batch).to_string()
    }

    #[test]
    fn what_does_not_exist_is_named_as_what_it_was_looked_for() {
        let both = said(ErrorCode::NotFound, true);
        assert!(
            both.starts_with("there is no batch and no task default-99"),
            "{both}"
        );
        let task = said(ErrorCode::NotFound, false);
        assert!(task.starts_with("there is no task default-99"), "{task}");
        let other = said(ErrorCode::Unavailable, true);
        assert!(!other.contains("no batch"), "{other}");
    }
}
