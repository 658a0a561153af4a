//! A plan as text: what a run prints before it begins.

use std::fmt;

use super::op::{Op, Timed};
use super::{ChaosPlan, Draft};

impl fmt::Display for ChaosPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} tasks in {:.0?}",
            self.seed,
            self.drafts.len(),
            self.length
        )?;
        for Timed { at, op } in &self.schedule {
            write!(f, "{:>8.3}s  {op}", at.as_secs_f64())?;
            if let Op::Submit { drafts, .. } = op {
                for draft in drafts.iter().map(|&number| &self.drafts[number]) {
                    write!(f, "\n{:12}{draft}", "")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directives = self.prompt.find("{{").map_or("", |at| &self.prompt[at..]);
        let Self {
            number,
            name,
            model,
            priority,
            size,
            steps,
            ..
        } = self;
        write!(
            f,
            "#{number} {name:?} {model} {priority:?} {size} {steps} steps {directives}"
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submit { how, .. } => write!(f, "submit {how:?}"),
            Self::Nonsense {
                number,
                named: true,
            } => write!(f, "nonsense {number}, named"),
            Self::Nonsense {
                number,
                named: false,
            } => write!(f, "nonsense {number}"),
            Self::Cancel { draft, moment } => write!(f, "cancel #{draft} {moment:?}"),
            Self::Retry { draft } => write!(f, "retry #{draft} once it ended without a video"),
            Self::Kill { program, down } => write!(f, "kill -9 {program:?}, down for {down:?}"),
            Self::Machine { pick, accident } => write!(f, "machine {pick}: {accident:?}"),
            Self::Arm { crash_at } => write!(f, "the next machine's worker will die {crash_at}"),
            Self::Storage { rules, last, .. } => write!(f, "S3 for {last:?}: {rules}"),
            Self::Ec2 { rules, last, .. } => write!(f, "EC2 for {last:?}: {rules}"),
            Self::Price {
                kind,
                percent,
                last,
            } => write!(f, "{kind} costs {percent} % for {last:?}"),
            Self::Boots { last } => write!(f, "machines end before they serve for {last:?}"),
            Self::Taking { kind, zone, last } => {
                write!(f, "zone {zone} takes each {kind} for {last:?}")
            }
            Self::Unreadable { last } => {
                write!(
                    f,
                    "what was spent cannot be read for {last:?}, and fleet is killed"
                )
            }
            Self::Shortage {
                kind,
                zone,
                capacity,
                last,
            } => write!(f, "{capacity} of {kind} in {zone:?} for {last:?}"),
        }
    }
}
