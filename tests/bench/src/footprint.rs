//! What the programs take of a machine that has nothing to do.

use std::time::{Duration, Instant};

use spotreel_tests::harness::process;
use spotreel_tests::harness::{Program, System, SystemOptions};

use super::figure::Figure;

/// Of each program: a control plane fits the smallest machine that there is.
const MEMORY_MB: f64 = 30.0;
/// Of one core, in percent.
const CPU_PERCENT: f64 = 0.2;
const GOAL: f64 = 1.0;
/// Connections are made, the first looks are over.
const SETTLED: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(20);

pub async fn run() -> Vec<Figure> {
    let mut system = System::start(SystemOptions {
        lease: Duration::from_secs(60),
        ..SystemOptions::default()
    })
    .await;
    let (trigger, fleet) = tokio::join!(
        Program::start(system.spec("trigger")),
        Program::start(system.spec("fleet"))
    );
    let mut others = [trigger, fleet];
    let mut programs: Vec<(String, u32)> = Vec::new();
    let services = [
        &mut system.intake,
        &mut system.notifier,
        &mut system.monitor,
    ];
    for program in services
        .into_iter()
        .chain(&mut system.workers)
        .chain(&mut others)
    {
        programs.push((program.spec.name.clone(), program.id()));
    }
    tokio::time::sleep(SETTLED).await;
    let (began, before) = (Instant::now(), cpu(&programs));
    tokio::time::sleep(WATCHED).await;
    let (took, after) = (began.elapsed().as_secs_f64(), cpu(&programs));
    let mut figures = Vec::new();
    for (name, id) in &programs {
        let sample = process::sample(*id).expect("it runs");
        figures.push(Figure::new(
            &format!("{name} at rest, MB"),
            sample.resident_mb,
            MEMORY_MB,
            Some(GOAL),
            format!(
                "resident memory after {:.0} s without work, one worker in the system; the worker without its engine",
                (SETTLED + WATCHED).as_secs_f64()
            ),
        ));
    }
    for (at, (name, _)) in programs.iter().enumerate() {
        figures.push(Figure::new(
            &format!("{name} at rest, % of a core"),
            (after[at] - before[at]) / took * 100.0,
            CPU_PERCENT,
            Some(GOAL),
            format!(
                "user and system time over {took:.0} s without work, counted in hundredths of a second"
            ),
        ));
    }
    figures
}

fn cpu(programs: &[(String, u32)]) -> Vec<f64> {
    let times = programs.iter();
    times
        .map(|(_, id)| process::sample(*id).expect("it runs").cpu_s)
        .collect()
}
