//! One render, from the request to its last word.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use serde_json::json;
use sha2::{Digest, Sha256};
use spotreel_engine_protocol::{
    CODE_DOES_NOT_FIT, EXIT_DEVICE, ErrorKind, ErrorReport, FinishedInfo, FromEngine, Phase,
    RenderRequest, ResumeKind, StepInfo,
};

use crate::channel::Outbox;
use crate::checkpoint;
use crate::current::Current;
use crate::denoise::{Denoiser, Latents};
use crate::faults::{Fault, Faults};
use crate::jpeg;
use crate::log::log;
use crate::overlay::Overlay;
use crate::picture::{self, Frame};
use crate::recipe::{Recipe, report};
use crate::session::{Loaded, Options, PROFILES};
use crate::{text, video};

/// How much longer a step takes under the fault `slow`.
const SLOW: Duration = Duration::from_millis(200);
/// What the fault `huge` says that it would take: more than an A100 with 40 GB has.
const HUGE: u64 = 46_000_000_000;
/// Lines that the fault `noise` prints to each stream: more than a pipe holds, so an unread pipe would block.
const NOISE_LINES: usize = 2000;

/// A request and what it needs.
pub struct Job<'a> {
    request: RenderRequest,
    faults: Faults,
    outbox: &'a Outbox,
    current: &'a Current,
    loaded: &'a Loaded,
    options: Options,
}

impl<'a> Job<'a> {
    pub fn new(
        request: RenderRequest,
        loaded: &'a Loaded,
        outbox: &'a Outbox,
        current: &'a Current,
        options: Options,
    ) -> Self {
        let faults = if options.faults {
            Faults::parse(&request.task.prompt, request.attempt)
        } else {
            Faults::default()
        };
        Self {
            request,
            faults,
            outbox,
            current,
            loaded,
            options,
        }
    }

    /// Ends with exactly one `finished` or `error`.
    pub fn run(self) {
        let (message, broken) = match self.render() {
            Ok(finished) => (FromEngine::Finished(finished), false),
            Err(mut report) => {
                report.id = Some(self.request.id.clone());
                let broken = report.kind == ErrorKind::Device;
                (FromEngine::Error(report), broken)
            }
        };
        self.current.end(&message, self.outbox);
        if broken {
            process::exit(EXIT_DEVICE);
        }
    }

    fn render(&self) -> Result<FinishedInfo, ErrorReport> {
        let recipe = Recipe::new(self.request.task.clone())?;
        let resume = self.request.resume.as_ref();
        let start = match resume {
            Some(from) => checkpoint::read(from, &recipe)?,
            None => Denoiser::start(&recipe),
        };
        let kind = resume.map_or(ResumeKind::None, |_| ResumeKind::Exact);
        self.outbox.send(&FromEngine::Accepted {
            id: self.request.id.clone(),
            start_step: start.next_step,
            resume: kind,
        });
        self.current.begin(&recipe);
        self.current.advance(&start);
        if self.options.packs && resume.is_none() {
            self.encode_text();
        }
        let mut timings = BTreeMap::new();
        let clock = Instant::now();
        let latents = self.denoise(&recipe, start.clone())?;
        timings.insert("denoise".to_owned(), clock.elapsed().as_secs_f64());
        let clock = Instant::now();
        let path = self.video(&recipe, &latents)?;
        timings.insert("decode".to_owned(), clock.elapsed().as_secs_f64());
        let bytes = fs::read(&path).map_err(|error| internal(&path, &error.into()))?;
        Ok(FinishedInfo {
            id: self.request.id.clone(),
            video: path,
            poster: Some(self.poster(&recipe, &latents)?),
            meta: json!({
                "engine": "sim",
                "engine_version": env!("CARGO_PKG_VERSION"),
                "device": "cpu",
                "seed": recipe.task.seed,
                "task_hash": hex::encode(recipe.task_hash),
                "start_step": start.next_step,
                "resume": kind,
            }),
            bytes: bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(&bytes)),
            timings,
        })
    }

    fn denoise(&self, recipe: &Recipe, mut latents: Latents) -> Result<Latents, ErrorReport> {
        let total = recipe.task.steps;
        let policy = self.request.checkpoint;
        let interval = Duration::try_from_secs_f64(policy.min_interval_s).unwrap_or_default();
        let denoiser = Denoiser::new(recipe);
        let mut last_checkpoint: Option<Instant> = None;
        self.phase(Phase::Denoise);
        while latents.next_step < total {
            self.strike(latents.next_step)?;
            // As a second expert is: wanted at the middle.
            if latents.next_step >= total / 2 && !self.loaded.pack.is_whole() {
                self.phase(Phase::Load);
                self.loaded.pack.wait(self.current)?;
                self.phase(Phase::Denoise);
            }
            let began = Instant::now();
            let pace = if self.faults.begun(Fault::Slow, latents.next_step) {
                self.options.least_step + SLOW
            } else {
                self.options.least_step
            };
            latents = denoiser.step(&latents);
            self.current.wait_until(began + pace)?;
            self.current.advance(&latents);
            let seconds = began.elapsed().as_secs_f64();
            let done = latents.next_step;
            self.outbox.send(&FromEngine::Step(StepInfo {
                id: self.request.id.clone(),
                done,
                total,
                expert: None,
                seconds,
                eta_s: Some(seconds * f64::from(total - done)),
                vram_peak: None,
            }));
            self.preview(recipe, &latents);
            let due = policy.every_steps > 0 && done.is_multiple_of(policy.every_steps);
            let rested = last_checkpoint.is_none_or(|last| last.elapsed() >= interval);
            // The last one is always worth it: decoding may fail after hours of denoising.
            if (due && rested) || (done == total && policy.every_steps > 0) {
                self.current.checkpoint();
                last_checkpoint = Some(Instant::now());
            }
        }
        self.strike(total)?;
        Ok(latents)
    }

    fn video(&self, recipe: &Recipe, latents: &Latents) -> Result<std::path::PathBuf, ErrorReport> {
        self.phase(Phase::Decode);
        let task = &recipe.task;
        let path = self.request.out_dir.join("video.mp4");
        let part = path.with_extension("part");
        let (width, height) = (task.width as usize, task.height as usize);
        let overlay = Overlay::new(&task.prompt, task.seed, width, height);
        let black = self.faults.begun(Fault::Black, task.steps);
        let frozen = self.faults.begun(Fault::Frozen, task.steps);
        let drawn = video::write(&part, task, |index| {
            self.current.check().ok()?;
            if black {
                return Some(Frame::black(width, height));
            }
            let index = if frozen { 0 } else { index };
            let mut frame = picture::decode(&latents.values, recipe.shape, index as usize);
            overlay.draw(&mut frame, index, task.frames);
            Some(frame)
        });
        if let Err(report) = self.current.check() {
            // A leftover only wastes disk until the worker clears the directory.
            let _ = fs::remove_file(&part);
            return Err(report);
        }
        drawn.map_err(|error| internal(&part, &error))?;
        if self.faults.begun(Fault::Truncated, task.steps) {
            halve(&part).map_err(|error| internal(&part, &error.into()))?;
        }
        fs::rename(&part, &path).map_err(|error| internal(&path, &error.into()))?;
        Ok(path)
    }

    fn poster(&self, recipe: &Recipe, latents: &Latents) -> Result<PathBuf, ErrorReport> {
        let task = &recipe.task;
        let mut frame = picture::decode(&latents.values, recipe.shape, 0);
        let overlay = Overlay::new(&task.prompt, task.seed, frame.width, frame.height);
        overlay.draw(&mut frame, 0, task.frames);
        let path = self.request.out_dir.join("poster.jpg");
        jpeg::write(&path, &frame).map_err(|error| internal(&path, &error))?;
        Ok(path)
    }

    /// The middle frame, where one is due.
    fn preview(&self, recipe: &Recipe, latents: &Latents) {
        let done = latents.next_step;
        let every = self.request.preview.map_or(0, |policy| policy.every_steps);
        if every == 0 || !done.is_multiple_of(every) || done == recipe.task.steps {
            return;
        }
        let frame = picture::decode(
            &latents.values,
            recipe.shape,
            recipe.task.frames as usize / 2,
        );
        let path = self.request.work_dir.join(format!("preview-{done:04}.jpg"));
        match jpeg::write_small(&path, &frame) {
            Ok(()) => self.outbox.send(&FromEngine::Preview {
                id: self.request.id.clone(),
                path,
            }),
            // The render can go on without.
            Err(error) => log(format_args!("a preview cannot be written: {error:#}")),
        }
    }

    fn encode_text(&self) {
        let RenderRequest {
            id, task, work_dir, ..
        } = &self.request;
        let given = self.request.embeddings.as_ref();
        if given.is_some_and(|given| text::is_at_hand(given, task)) {
            return;
        }
        self.phase(Phase::EncodeText);
        if let Some(info) = text::write(id, task, work_dir) {
            self.outbox.send(&FromEngine::Embeddings(info));
        }
    }

    fn phase(&self, name: Phase) {
        self.outbox.send(&FromEngine::Phase {
            id: Some(self.request.id.clone()),
            name,
        });
    }

    /// Lets the faults that are due happen.
    fn strike(&self, done: u32) -> Result<(), ErrorReport> {
        for fault in self.faults.at(done) {
            // What a fault finds on the disk does not depend on the disk's speed.
            self.current.flush();
            log(format_args!("fault {fault:?} at step {done}"));
            let injected = |kind, code: &str| Err(report(kind, code, "injected by the prompt"));
            match fault {
                Fault::Crash => process::abort(),
                Fault::Hang => self.hang(),
                Fault::Oom => return injected(ErrorKind::Oom, "out_of_memory"),
                Fault::Large if self.loaded.profile == PROFILES[0] => {
                    return injected(ErrorKind::Oom, "out_of_memory");
                }
                Fault::Large => {}
                Fault::Huge => {
                    let refusal =
                        report(ErrorKind::Oom, CODE_DOES_NOT_FIT, "injected by the prompt");
                    return Err(ErrorReport {
                        context: json!({"needed_bytes": HUGE}),
                        ..refusal
                    });
                }
                Fault::Model => return injected(ErrorKind::Model, "sha256_mismatch"),
                Fault::Garbage => self.outbox.send_bytes(b"\x00\xff{not json\n"),
                Fault::Noise => noise(),
                Fault::BadCkpt => self.current.spoil_checkpoint(),
                Fault::KillWorker => kill_worker(),
                Fault::Retryable => return injected(ErrorKind::Retryable, "injected"),
                Fault::Invalid => return injected(ErrorKind::Invalid, "injected"),
                Fault::Device => {
                    let broken = report(ErrorKind::Device, "xid", "injected by the prompt");
                    return Err(ErrorReport {
                        restart: true,
                        ..broken
                    });
                }
                // These last; they are looked up where they apply.
                Fault::Slow | Fault::Black | Fault::Frozen | Fault::Truncated => {}
            }
        }
        self.current.check()
    }

    fn hang(&self) -> ! {
        self.outbox.mute();
        loop {
            thread::park();
        }
    }
}

fn noise() {
    let line = "{\"type\":\"finished\"} noise ".repeat(8);
    for _ in 0..NOISE_LINES {
        println!("{line}");
        log(&line);
    }
    // A log line without an end.
    print!("no newline");
    // Nobody may be reading; noise needs no listener.
    let _ = std::io::stdout().flush();
}

fn kill_worker() {
    // Never init: an engine whose worker is gone has nobody to kill.
    if getppid() > Pid::from_raw(1)
        && let Err(error) = kill(getppid(), Signal::SIGKILL)
    {
        log(format_args!("cannot kill the worker: {error}"));
    }
}

fn halve(path: &Path) -> std::io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(file.metadata()?.len() / 2)
}

fn internal(path: &Path, error: &anyhow::Error) -> ErrorReport {
    let message = format!("{}: {error:#}", path.display());
    report(ErrorKind::Internal, "video", &message)
}
