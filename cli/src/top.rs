//! `spotreel top`: queue, batches, machines and costs, drawn anew every second.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use jiff::Timestamp;
use spotreel_api::{
    AlarmsQuery, AlarmsView, FleetQuery, FleetView, PoolView, PoolWhy, Why, WhyQuery,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;
use spotreel_domain::pool::Cloud;

use crate::args::TopArgs;
use crate::connection::{Api, CallError, Settings};
use crate::done::Done;
use crate::print::{line, span, table_lines};
use crate::{alarms, fleet, print, why};

const DRAW_EVERY: Duration = Duration::from_secs(1);
/// Before the lines of a pool.
const INDENT: &str = "  ";
/// The terminal's other screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

pub async fn run(settings: &Settings, args: TopArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    if args.once || !io::stdout().is_terminal() {
        let seen = Seen::ask(&api, args.pool).await;
        for one in seen.lines(ambient::now(), usize::MAX) {
            line(&one);
        }
        return Ok(match (&seen.why, &seen.fleet) {
            (Ok(_), Ok(_)) => Done::Well,
            _ => Done::Failed,
        });
    }
    let _screen = Screen::enter()?;
    let ended = tokio::signal::ctrl_c();
    tokio::pin!(ended);
    let mut tick = tokio::time::interval(DRAW_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut ended => return Ok(Done::Well),
            seen = async { tick.tick().await; Seen::ask(&api, args.pool.clone()).await } => {
                let (rows, columns) = console::Term::stdout().size();
                draw(&seen.lines(ambient::now(), columns.into()), rows.into(), columns.into())?;
            }
        }
    }
}

/// What is seen; a service that does not answer hides only its own part.
struct Seen {
    why: Result<Why, CallError>,
    fleet: Result<FleetView, CallError>,
    alarms: Result<AlarmsView, CallError>,
}

impl Seen {
    async fn ask(api: &Api, pool: Option<String>) -> Self {
        let (why, fleet) = (WhyQuery { pool: pool.clone() }, FleetQuery { pool });
        let alarms = AlarmsQuery { firing: true };
        let (why, fleet, alarms) = tokio::join!(
            api.call(names::WHY, &why),
            api.call(names::FLEET, &fleet),
            api.call(names::ALARMS, &alarms),
        );
        Self { why, fleet, alarms }
    }

    fn lines(&self, now: Timestamp, columns: usize) -> Vec<String> {
        let mut lines = vec![format!(
            "spotreel  {}  {}",
            now.strftime("%F %T UTC"),
            self.alarms(now)
        )];
        let pools = self.why.as_ref().map_or(&[][..], |why| &why.pools);
        for why in pools {
            lines.push(String::new());
            lines.extend(queue(why));
            let pools = self.fleet.iter().flat_map(|fleet| &fleet.pools);
            for pool in pools.filter(|pool| pool.pool == why.pool) {
                lines.extend(machines(pool, columns));
            }
        }
        let errors = [self.why.as_ref().err(), self.fleet.as_ref().err()];
        for error in errors.into_iter().flatten() {
            lines.push(String::new());
            lines.push(format!("not known now: {error}"));
        }
        lines
    }

    fn alarms(&self, now: Timestamp) -> String {
        match &self.alarms {
            Err(error) => format!("alarms not known now: {error}"),
            Ok(view) if alarms::is_old(view, now) => {
                let last = view.looked_at.map(|at| print::relative(now, at));
                let last = last.unwrap_or_else(|| "not yet".to_owned());
                format!("alarms not known now: monitor looked {last}")
            }
            Ok(view) => match view.alarms.as_slice() {
                [] => "no alarm fires".to_owned(),
                [one] => format!("ALARM {}: {}", one.name, one.sentence),
                more => format!("{} ALARMS FIRE: see `spotreel alarms`", more.len()),
            },
        }
    }
}

fn queue(why: &PoolWhy) -> Vec<String> {
    let spend = &why.view.spend;
    let money = match why.cloud {
        Cloud::Aws => format!(
            "; {} an hour now, {} today, {} this month",
            spend.per_hour, spend.today, spend.this_month
        ),
        Cloud::None => String::new(),
    };
    let mut lines = vec![
        format!("pool {}: {}{money}", why.pool, why::queue(why)),
        format!("  {}", why::verdict(&why.decision)),
    ];
    let blockers = why.decision.blockers.iter();
    lines.extend(blockers.map(|blocker| format!("  blocked: {}", blocker.sentence)));
    lines
}

fn machines(pool: &PoolView, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(batch) = &pool.batch {
        let eta = pool
            .eta_s
            .filter(|_| pool.tasks.is_some_and(|tasks| tasks > 0));
        let eta = eta.map(|eta| format!(", done in about {}", span(eta)));
        lines.push(format!(
            "  batch {}, {}: {}{}",
            batch.id,
            batch.status,
            pool.cost,
            eta.unwrap_or_default()
        ));
    }
    let columns = columns.saturating_sub(INDENT.len());
    let indented = |line: String| format!("{INDENT}{line}");
    if !pool.instances.is_empty() {
        let table = table_lines(fleet::HEADER, &fleet::rows(pool), Some(columns));
        lines.extend(table.into_iter().map(indented));
    }
    if !pool.own.is_empty() {
        let table = table_lines(fleet::OWN_HEADER, &fleet::own_rows(pool), Some(columns));
        lines.extend(table.into_iter().map(indented));
    }
    lines
}

/// The other screen of the terminal, until it is dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        write(ENTER)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = write(LEAVE);
    }
}

/// Writes a frame over the one before, so that nothing flickers.
fn draw(lines: &[String], rows: usize, columns: usize) -> io::Result<()> {
    let fits = rows.saturating_sub(1);
    let mut frame = HOME.to_owned();
    for (index, line) in lines.iter().take(fits).enumerate() {
        let text = match index + 1 == fits && lines.len() > fits {
            true => format!("… {} more lines", lines.len() - index),
            false => print::short(line, columns),
        };
        frame.push_str(&format!("{text}{CLEAR_LINE}\r\n"));
    }
    frame.push_str(CLEAR_BELOW);
    write(&frame)
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
