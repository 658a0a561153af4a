//! How long silence may last, given what the engine is busy with.

use std::time::Duration;

use spotreel_engine_protocol::Phase;
use tokio::time::Instant;

use super::config::Deadlines;

/// The course of one render. Only progress moves it: checkpoints come from another thread and prove nothing.
#[derive(Debug)]
pub struct Pace {
    deadlines: Deadlines,
    last_progress: Instant,
    stage: Stage,
    steps: Vec<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Loading,
    FirstStep,
    Steps,
    Decoding,
}

impl Pace {
    pub fn new(deadlines: Deadlines, now: Instant) -> Self {
        Self {
            deadlines,
            last_progress: now,
            stage: Stage::FirstStep,
            steps: Vec::new(),
        }
    }

    pub fn phase(&mut self, phase: Phase, now: Instant) {
        self.last_progress = now;
        self.stage = match phase {
            Phase::Load => Stage::Loading,
            Phase::EncodeText | Phase::EncodeImage | Phase::Denoise => Stage::FirstStep,
            Phase::Decode | Phase::Mux | Phase::Other => Stage::Decoding,
        };
    }

    pub fn step(&mut self, now: Instant) {
        if self.stage == Stage::Steps {
            let took = now.saturating_duration_since(self.last_progress);
            let at = self.steps.partition_point(|step| *step < took);
            self.steps.insert(at, took);
        }
        self.stage = Stage::Steps;
        self.last_progress = now;
    }

    /// When patience ends.
    pub fn deadline(&self) -> Instant {
        self.last_progress + self.patience()
    }

    fn patience(&self) -> Duration {
        let d = &self.deadlines;
        match self.stage {
            Stage::Loading => d.load,
            Stage::FirstStep => d.first_step,
            Stage::Decoding => d.decode,
            // Until there is a step to go by.
            Stage::Steps if self.steps.is_empty() => d.first_step.max(d.step_floor),
            Stage::Steps => {
                let median = self.steps[self.steps.len() / 2];
                d.step_floor.max(median.mul_f64(d.step_factor))
            }
        }
    }

    /// For the message of a failure.
    pub fn describe(&self) -> String {
        let doing = match self.stage {
            Stage::Loading => "loading",
            Stage::FirstStep => "before the first step",
            Stage::Steps => "between steps",
            Stage::Decoding => "decoding",
        };
        format!("no progress for {:?} while {doing}", self.patience())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_known_to_be_long_is_waited_for() {
        let start = Instant::now();
        let patience = |step: Option<u64>| {
            let deadlines = Deadlines::default().for_step(step.map(Duration::from_secs));
            Pace::new(deadlines, start).deadline() - start
        };
        assert_eq!(patience(None), Duration::from_secs(900));
        assert_eq!(patience(Some(26)), Duration::from_secs(900));
        // The largest model in its largest size on a small card.
        assert_eq!(patience(Some(326)), Duration::from_secs(6 * 326));
    }

    #[test]
    fn patience_follows_the_phase_and_the_median_step() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut pace = Pace::new(Deadlines::default(), start);
        assert_eq!(pace.deadline(), at(900));
        pace.phase(Phase::Load, at(10));
        assert_eq!(pace.deadline(), at(10 + 1200));
        pace.phase(Phase::Denoise, at(20));
        pace.step(at(300));
        assert_eq!(pace.deadline(), at(300 + 900), "no step to go by yet");
        pace.step(at(305));
        assert_eq!(pace.deadline(), at(305 + 60), "the floor");
        pace.step(at(405));
        pace.step(at(505));
        assert_eq!(pace.deadline(), at(505 + 600), "six medians");
        pace.phase(Phase::Decode, at(506));
        assert_eq!(pace.deadline(), at(506 + 900));
    }
}
