//! What an instance did in each millisecond of its life.

use std::collections::BTreeSet;

/// A span of time in milliseconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub from: i64,
    pub to: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum During {
    /// Before its worker served.
    Boot,
    /// The attempt at this index.
    Attempt(usize),
    Idle,
}

/// Divides `life` into its parts, in order of time. Each moment belongs to the open attempt that began last: an upload
/// overlaps the next render. The boot ends when the worker serves, at the latest with its first attempt.
pub(super) fn of_instance(
    life: Span,
    served_at: Option<i64>,
    attempts: &[Span],
) -> Vec<(Span, During)> {
    let Span { from, to } = life;
    let first = attempts.iter().map(|attempt| attempt.from).min();
    let served = [served_at, first].into_iter().flatten().min();
    let served = served.unwrap_or(to).clamp(from, to);

    let mut changes = Vec::new();
    for (index, attempt) in attempts.iter().enumerate() {
        let (began, ended) = (attempt.from.clamp(served, to), attempt.to.clamp(served, to));
        if began < ended {
            changes.push((began, true, index));
            changes.push((ended, false, index));
        }
    }
    changes.sort_unstable();

    let mut parts: Vec<(Span, During)> = Vec::new();
    let mut add = |from: i64, to: i64, during: During| match parts.last_mut() {
        _ if from >= to => {}
        Some((last, of)) if *of == during => last.to = to,
        _ => parts.push((Span { from, to }, during)),
    };
    add(from, served, During::Boot);
    let mut open = BTreeSet::new();
    let mut at = served;
    for (time, begins, index) in changes {
        let newest = open.last().map(|(_, index)| During::Attempt(*index));
        add(at, time, newest.unwrap_or(During::Idle));
        at = time;
        let key = (attempts[index].from, index);
        match begins {
            true => open.insert(key),
            false => open.remove(&key),
        };
    }
    add(at, to, During::Idle);
    parts
}

#[cfg(test)]
mod tests {
    use super::During::{Attempt, Boot, Idle};
    use super::*;

    fn parts(
        life: (i64, i64),
        served_at: Option<i64>,
        attempts: &[(i64, i64)],
    ) -> Vec<(i64, i64, During)> {
        let span = |(from, to): (i64, i64)| Span { from, to };
        let attempts: Vec<_> = attempts.iter().copied().map(span).collect();
        let parts = of_instance(span(life), served_at, &attempts);
        let flat = |(span, during): (Span, During)| (span.from, span.to, during);
        parts.into_iter().map(flat).collect()
    }

    #[test]
    fn an_upload_belongs_to_the_next_render() {
        let all = parts((0, 100), Some(20), &[(25, 60), (50, 90)]);
        assert_eq!(
            all,
            [
                (0, 20, Boot),
                (20, 25, Idle),
                (25, 50, Attempt(0)),
                (50, 90, Attempt(1)),
                (90, 100, Idle),
            ]
        );
    }

    #[test]
    fn an_attempt_that_others_overlap_goes_on_after_them() {
        let all = parts((0, 100), Some(0), &[(0, 100), (10, 20)]);
        assert_eq!(
            all,
            [
                (0, 10, Attempt(0)),
                (10, 20, Attempt(1)),
                (20, 100, Attempt(0))
            ]
        );
    }

    #[test]
    fn what_lies_outside_of_its_life_is_nobodys() {
        let all = parts((10, 50), None, &[(40, 900)]);
        assert_eq!(all, [(10, 40, Boot), (40, 50, Attempt(0))]);
        assert_eq!(parts((10, 50), None, &[]), [(10, 50, Boot)]);
        assert_eq!(parts((10, 50), Some(5), &[(0, 7)]), [(10, 50, Idle)]);
        assert_eq!(parts((10, 10), Some(5), &[(0, 70)]), []);
        // A clock went back: it ended before it began.
        assert_eq!(
            parts((0, 9), Some(3), &[(7, 5)]),
            [(0, 3, Boot), (3, 9, Idle)]
        );
    }

    #[test]
    fn a_task_may_begin_before_fleet_has_seen_its_worker() {
        let all = parts((0, 100), Some(30), &[(20, 100)]);
        assert_eq!(all, [(0, 20, Boot), (20, 100, Attempt(0))]);
    }
}
