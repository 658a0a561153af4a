//! What the kernel says of a process.

use std::path::Path;

/// The kernel counts time in these, on every architecture that matters.
const TICKS_A_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub resident_mb: f64,
    /// User and system, since its start.
    pub cpu_s: f64,
    pub open_files: usize,
}

/// None: there is no such process.
pub fn sample(id: u32) -> Option<Sample> {
    let proc = Path::new("/proc").join(id.to_string());
    let status = std::fs::read_to_string(proc.join("status")).ok()?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = resident.trim().trim_end_matches(" kB").parse().ok()?;
    let stat = std::fs::read_to_string(proc.join("stat")).ok()?;
    Some(Sample {
        resident_mb: kilobytes / 1024.0,
        cpu_s: cpu_s(&stat)?,
        open_files: std::fs::read_dir(proc.join("fd")).ok()?.count(),
    })
}

pub fn children(id: u32) -> Vec<u32> {
    let parent_of = |child: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        fields(&stat)?.nth(1)?.parse::<u32>().ok()
    };
    let all = all().into_iter();
    all.filter(|child| parent_of(child) == Some(id)).collect()
}

/// The process of a program that has this among its arguments.
pub fn of(program: &str, argument: &str) -> Option<u32> {
    all().into_iter().find(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0');
        words
            .next()
            .is_some_and(|first| first.rsplit('/').next() == Some(program))
            && words.any(|word| word == argument)
    })
}

fn all() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Those after the name, which stands in parentheses and may hold anything.
fn fields(stat: &str) -> Option<std::str::SplitWhitespace<'_>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace())
}

fn cpu_s(stat: &str) -> Option<f64> {
    // `utime` and `stime`.
    let mut ticks = fields(stat)?.skip(11).map(str::parse::<f64>);
    Some((ticks.next()?.ok()? + ticks.next()?.ok()?) / TICKS_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_one() {
        let sample = sample(std::process::id()).unwrap();
        assert!(
            sample.resident_mb > 1.0 && sample.open_files > 2,
            "{sample:?}"
        );
        assert_eq!(super::sample(u32::MAX), None);
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 9";
        assert_eq!(cpu_s(stat), Some(2.0));
    }

    #[test]
    fn a_child_is_found_by_its_parent_and_by_its_words() {
        let mut child = std::process::Command::new("sleep")
            .arg("12345.75")
            .spawn()
            .unwrap();
        let id = child.id();
        let found = (children(std::process::id()), of("sleep", "12345.75"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.0.contains(&id));
        assert_eq!(found.1, Some(id));
    }
}
