//! Faults on demand. With `--allow-faults` a prompt may hold directives such as `{{crash@3}}` (when 3 steps are done)
//! or `{{crash@3#1}}` (the same, but only up to attempt 1, so that the next attempt succeeds).

/// What can be made to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Abort, without a word.
    Crash,
    /// Say nothing for ever.
    Hang,
    Oom,
    /// Memory runs out, but not with the profile that takes less.
    Large,
    /// The task would fit a larger accelerator only.
    Huge,
    /// The model's files are broken.
    Model,
    /// Break the channel with bytes that are no message.
    Garbage,
    /// Print much to stdout and stderr; the render goes on.
    Noise,
    /// From here on each step takes 200 ms more.
    Slow,
    /// Announce a checkpoint with a hash that is not its own.
    BadCkpt,
    /// SIGKILL to the worker.
    KillWorker,
    Retryable,
    Invalid,
    /// Report a broken accelerator, then exit with the status for it.
    Device,
    /// A black video.
    Black,
    /// A video that does not move.
    Frozen,
    /// Half of the file is missing.
    Truncated,
}

const NAMES: [(&str, Fault); 17] = [
    ("crash", Fault::Crash),
    ("hang", Fault::Hang),
    ("oom", Fault::Oom),
    ("large", Fault::Large),
    ("huge", Fault::Huge),
    ("model", Fault::Model),
    ("garbage", Fault::Garbage),
    ("noise", Fault::Noise),
    ("slow", Fault::Slow),
    ("bad_ckpt", Fault::BadCkpt),
    ("kill_worker", Fault::KillWorker),
    ("retryable", Fault::Retryable),
    ("invalid", Fault::Invalid),
    ("device", Fault::Device),
    ("black", Fault::Black),
    ("frozen", Fault::Frozen),
    ("truncated", Fault::Truncated),
];

/// The faults that this attempt will meet.
#[derive(Debug, Default)]
pub struct Faults(Vec<(Fault, u32)>);

impl Faults {
    /// Reads the directives of a prompt; what is not a directive is text.
    pub fn parse(prompt: &str, attempt: u32) -> Self {
        let directives = prompt
            .split("{{")
            .skip(1)
            .filter_map(|rest| directive(rest.split_once("}}")?.0));
        Self(
            directives
                .filter(|(_, _, until)| until.is_none_or(|until| attempt <= until))
                .map(|(fault, step, _)| (fault, step))
                .collect(),
        )
    }

    /// The faults that strike after this number of steps.
    pub fn at(&self, done: u32) -> impl Iterator<Item = Fault> + '_ {
        let due = self.0.iter().filter(move |(_, step)| *step == done);
        due.map(|(fault, _)| *fault)
    }

    /// Whether a fault that lasts has begun.
    pub fn begun(&self, fault: Fault, done: u32) -> bool {
        self.0.iter().any(|(f, step)| *f == fault && *step <= done)
    }
}

fn directive(text: &str) -> Option<(Fault, u32, Option<u32>)> {
    let (name, rest) = text.split_once('@')?;
    let (_, fault) = NAMES.iter().find(|(known, _)| *known == name)?;
    match rest.split_once('#') {
        Some((step, until)) => Some((*fault, step.parse().ok()?, Some(until.parse().ok()?))),
        None => Some((*fault, rest.parse().ok()?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_and_the_rest_is_text() {
        let prompt = "a cat {{oom@3}} {{x@1}} {{ in braces {{crash@2#1}} {{slow@0#x}}";
        assert_eq!(
            Faults::parse(prompt, 1).0,
            [(Fault::Oom, 3), (Fault::Crash, 2)]
        );
        assert_eq!(Faults::parse(prompt, 2).0, [(Fault::Oom, 3)]);
    }

    #[test]
    fn a_lasting_fault_lasts() {
        let faults = Faults::parse("{{slow@2}}", 1);
        assert!(!faults.begun(Fault::Slow, 1));
        assert!(faults.begun(Fault::Slow, 5));
    }
}
