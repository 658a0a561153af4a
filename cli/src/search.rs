//! Finding tasks by words of the prompt and by filters.

use jiff::Timestamp;
use spotreel_api::{FoundTask, MAX_SEARCH_LIMIT, SearchPage, SearchQuery};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;

use crate::args::SearchArgs;
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print::{self, relative, short};

pub async fn run(settings: &Settings, args: SearchArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let now = ambient::now();
    let (filters, output) = (args.filters, args.output);
    let most = output.most();
    let text = args.text.join(" ");
    let mut query = SearchQuery {
        text: (!args.text.is_empty()).then_some(text),
        owner: filters.owner,
        label: filters.label,
        state: filters.state,
        model: filters.model,
        batch: args.batch,
        since: args.since.map(|since| since.at(now)).transpose()?,
        until: args.until.map(|until| until.at(now)).transpose()?,
        limit: None,
        cursor: None,
    };
    let (mut rows, mut seen) = (Vec::new(), 0u32);
    loop {
        query.limit = Some(MAX_SEARCH_LIMIT.min(most - seen));
        let page: SearchPage = api.call(names::SEARCH, &query).await?;
        for task in &page.tasks {
            seen += 1;
            match output.json {
                true => print::json(task),
                false => rows.push(row(task, now)),
            }
        }
        query.cursor = page.next_cursor;
        if query.cursor.is_none() || seen >= most {
            break;
        }
    }
    if !output.json {
        match rows.is_empty() {
            true => print::line("no tasks"),
            false => print::table(
                ["ID", "STATE", "SUBMITTED", "MODEL", "PROMPT", "DETAIL"],
                &rows,
            ),
        }
        if query.cursor.is_some() {
            eprintln!("there are more: --all prints them");
        }
    }
    Ok(Done::Well)
}

fn row(task: &FoundTask, now: Timestamp) -> [String; 6] {
    let detail = match (&task.error, &task.batch) {
        (Some(error), _) => short(&error.message, 60),
        (None, Some(batch)) => format!("in batch {batch}"),
        (None, None) => String::new(),
    };
    [
        task.id.to_string(),
        task.state.clone(),
        relative(now, task.submitted_at),
        task.model.to_string(),
        short(&task.prompt, 40),
        detail,
    ]
}
