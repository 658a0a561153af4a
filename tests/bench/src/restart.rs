//! How long a program takes until it is ready again, over a log of a million tasks: beside the server's own restart over
//! the same store, which everything waits for anyhow.

use std::time::{Duration, Instant};

use spotreel_tests::harness::program::ProgramSpec;
use spotreel_tests::harness::{CloudProgram, Program};
use tempfile::TempDir;

use super::bounds::ms;
use super::figure::{Figure, grouped};
use super::filled::Filled;
use super::front;
use super::samples::Samples;
use super::tap::PATIENCE;

const GOAL: f64 = 2.0;
const ROUNDS: usize = 3;
const POLL: Duration = Duration::from_millis(5);
const PROGRAMS: [&str; 4] = ["intake", "notifier", "monitor", "trigger"];

pub async fn run(filled: &mut Filled) -> Vec<Figure> {
    let dir = TempDir::with_prefix("spotreel-bench-").expect("a directory can be made");
    let cloud = CloudProgram::start().await;
    let mut server = Samples::default();
    let mut programs: [Samples; PROGRAMS.len()] = Default::default();
    for _ in 0..ROUNDS {
        filled.server.stop().await;
        let took = filled.server.begin().await;
        server.add(took.as_secs_f64() * 1_000.0);
        for (name, samples) in PROGRAMS.into_iter().zip(&mut programs) {
            let spec = match name {
                "intake" => front::spec(&filled.server, &cloud, &dir),
                name => filled
                    .server
                    .spec(name, dir.path())
                    .envs(cloud.access.variables()),
            };
            samples.add(ready_after(spec).await);
        }
    }
    let tasks = grouped(filled.tasks);
    let figures = PROGRAMS.into_iter().zip(&programs);
    let figures = figures.map(|(name, samples)| {
        let setting = format!(
            "from the start of spotreel-{name} to `/readyz`, alone on a server with {tasks} queued tasks, against nats-server from its \
             start to its greeting over the same store after a polite stop; medians of {ROUNDS}"
        );
        let name = format!("{name} ready at {tasks} tasks, ms");
        Figure::new(&name, samples.p50(), server.p50(), Some(GOAL), setting)
    });
    figures.collect()
}

async fn ready_after(spec: ProgramSpec) -> f64 {
    let began = Instant::now();
    let mut program = Program::spawn(spec);
    let url = format!("{}/readyz", program.url());
    loop {
        let answer = reqwest::get(&url).await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            break;
        }
        assert!(
            began.elapsed() < PATIENCE && !program.has_ended(),
            "it is not ready: {}",
            program.log_text()
        );
        tokio::time::sleep(POLL).await;
    }
    ms(began)
}
