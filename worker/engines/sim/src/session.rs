//! The conversation: one thread listens and answers at once, the main thread renders.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use spotreel_engine_protocol::{
    EXIT_NO_COMMON_VERSION, EngineHello, ErrorKind, ErrorReport, FEATURE_FAST, FEATURE_FAULTS,
    FEATURE_LORAS, FromEngine, PROTO, Phase, RenderRequest, ToEngine, decode, negotiate,
};

use crate::channel::{Inbox, Outbox};
use crate::current::Current;
use crate::log::log;
use crate::pack::Pack;
use crate::recipe::{MODELS, limits, report};
use crate::render::Job;
use crate::text;

/// How the engine was started.
#[derive(Clone, Copy)]
pub struct Options {
    pub least_step: Duration,
    pub faults: bool,
    pub packs: bool,
}

/// How a model lies in memory; the second stands for one that takes less of it.
pub const PROFILES: [&str; 2] = ["sim", "sim-small"];

/// A model that is ready.
pub struct Loaded {
    pub model: String,
    pub profile: String,
    pub pack: Pack,
}

/// What the listener leaves to the main thread.
enum Work {
    Load {
        model: String,
        profile: Option<String>,
        pack_dir: Option<PathBuf>,
        arriving: Vec<PathBuf>,
    },
    Unload,
    Render(Box<RenderRequest>),
}

/// Talks until the worker is gone or says to stop; the process ends in here.
pub fn run(input: Box<dyn Read + Send>, outbox: &Outbox, options: Options) -> anyhow::Result<()> {
    outbox.send(&FromEngine::Hello(Box::new(hello(options))));
    let current = Arc::new(Current::new(outbox));
    let (to_renderer, work) = mpsc::channel();
    let listener = Listener {
        outbox: outbox.clone(),
        current: Arc::clone(&current),
        to_renderer,
    };
    thread::spawn(move || listener.listen(Inbox::new(input)));
    let mut loaded: Option<Loaded> = None;
    for item in work {
        match item {
            Work::Load {
                model,
                profile,
                pack_dir,
                arriving,
            } => {
                let began = Instant::now();
                let packs = pack_dir.filter(|_| options.packs);
                loaded = match load(model, profile, packs.as_deref(), &arriving) {
                    Ok(ready) => {
                        ready.announce(began, outbox);
                        Some(ready)
                    }
                    Err(report) => {
                        outbox.send(&FromEngine::Error(report));
                        None
                    }
                };
            }
            Work::Unload => loaded = None,
            Work::Render(request) => {
                let wanted = &request.task.model;
                if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.model == *wanted) {
                    Job::new(*request, loaded, outbox, &current, options).run();
                    continue;
                }
                let message = "the task's model is not loaded";
                let report = ErrorReport {
                    id: Some(request.id),
                    ..report(ErrorKind::Protocol, "not_loaded", message)
                };
                current.end(&FromEngine::Error(report), outbox);
            }
        }
    }
    Ok(())
}

fn hello(options: Options) -> EngineHello {
    // It has no weights, so it lacks none.
    let mut features = [
        "checkpoint_now",
        "exact_resume",
        "poster",
        "preview",
        FEATURE_FAST,
        FEATURE_LORAS,
    ]
    .map(str::to_owned)
    .to_vec();
    if options.faults {
        features.push(FEATURE_FAULTS.to_owned());
    }
    EngineHello {
        proto: PROTO,
        name: "sim".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        models: MODELS.map(str::to_owned).to_vec(),
        profiles: PROFILES.map(str::to_owned).to_vec(),
        device: Some("cpu".to_owned()),
        limits: limits(),
        features,
        checkpoint_format: None,
        embeddings: options.packs.then(|| text::DECIDED_BY.to_owned()),
    }
}

fn load(
    model: String,
    profile: Option<String>,
    packs: Option<&Path>,
    arriving: &[PathBuf],
) -> Result<Loaded, ErrorReport> {
    let refuse = |code, what: String| Err(report(ErrorKind::Model, code, &what));
    let profile = profile.unwrap_or_else(|| PROFILES[0].to_owned());
    if !MODELS.contains(&model.as_str()) {
        return refuse("unknown_model", format!("there is no model {model:?} here"));
    }
    if !PROFILES.contains(&profile.as_str()) {
        return refuse(
            "unknown_profile",
            format!("there is no profile {profile:?}"),
        );
    }
    let pack = match packs {
        Some(packs) => Pack::open(packs, &model, arriving)?,
        None => Pack::default(),
    };
    Ok(Loaded {
        model,
        profile,
        pack,
    })
}

impl Loaded {
    fn announce(&self, began: Instant, outbox: &Outbox) {
        outbox.send(&FromEngine::Phase {
            id: None,
            name: Phase::Load,
        });
        outbox.send(&FromEngine::Ready {
            model: self.model.clone(),
            profile: Some(self.profile.clone()),
            load_s: began.elapsed().as_secs_f64(),
            vram: Some(0),
        });
    }
}

struct Listener {
    outbox: Outbox,
    current: Arc<Current>,
    to_renderer: mpsc::Sender<Work>,
}

impl Listener {
    /// Ends the process when the channel does: a renderer without a worker only burns money.
    fn listen(&self, mut inbox: Inbox) {
        loop {
            match inbox.next_line() {
                Ok(Some(line)) => match decode(&line) {
                    Ok(message) => self.hear(message),
                    Err(error) => self.complain("bad_message", &error.to_string()),
                },
                Ok(None) => process::exit(0),
                Err(error) => {
                    self.complain("bad_line", &error.to_string());
                    process::exit(1);
                }
            }
        }
    }

    fn hear(&self, message: ToEngine) {
        match message {
            ToEngine::Hello { proto } => {
                if negotiate(PROTO, proto).is_none() {
                    log(format_args!(
                        "no common version: here {PROTO:?}, there {proto:?}"
                    ));
                    process::exit(EXIT_NO_COMMON_VERSION);
                }
            }
            ToEngine::Load {
                model,
                profile,
                pack_dir,
                arriving,
                ..
            } => self.work(Work::Load {
                model,
                profile,
                pack_dir,
                arriving,
            }),
            ToEngine::Unload => self.work(Work::Unload),
            ToEngine::Render(request) => {
                // Before it is handed over, so that a cancel right behind it finds it.
                if self.current.expect(&request) {
                    self.work(Work::Render(request));
                } else {
                    self.complain("busy", "one render at a time");
                }
            }
            ToEngine::CheckpointNow { id } => self.current.checkpoint_now(&id),
            ToEngine::Cancel { id, reason } => self.current.cancel(&id, reason),
            ToEngine::Ping { n } => self.outbox.send(&FromEngine::Pong { n }),
            ToEngine::Shutdown { .. } => {
                self.outbox.send(&FromEngine::Bye);
                process::exit(0);
            }
            ToEngine::Unknown => {
                self.complain("unknown_message", "a message of a type unknown here");
            }
        }
    }

    fn work(&self, work: Work) {
        if self.to_renderer.send(work).is_err() {
            log("the rendering thread is gone");
            process::exit(1);
        }
    }

    fn complain(&self, code: &str, message: &str) {
        self.outbox.send(&FromEngine::Error(report(
            ErrorKind::Protocol,
            code,
            message,
        )));
    }
}
