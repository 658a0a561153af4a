//! No program may ask the server for what its user has no right to: each such request is answered by silence, so a right that is
//! missing in deploy/nats/accounts.conf shows nowhere else.

/// Tests that ask on purpose, with the users of programs, for what they have no right to.
const ON_PURPOSE: [&str; 4] = [
    "an_answer_to_a_client_cannot_be_aimed_at_the_log",
    "nobody_writes_what_is_anothers",
    "nobody_but_intake_reads_or_writes_keys",
    "what_a_program_has_no_right_to_fails_its_test",
];

/// Whose rights programs need. People and clients in other languages may try what they like.
const PROGRAMS: [&str; 6] = [
    "intake", "trigger", "fleet", "notifier", "monitor", "worker",
];

/// The lines of a server's log that refuse a program something.
pub fn refused_rights(log: &str) -> Vec<&str> {
    let of_program = |line: &&str| {
        let user = line.split_once(" Violation").map(|(user, _)| user);
        user.is_some_and(|user| {
            PROGRAMS
                .iter()
                .any(|name| user.contains(&format!("user:{name}\"")))
        })
    };
    log.lines().filter(of_program).collect()
}

/// Whether this test does it on purpose: by its thread, or, where each test has a process of its own, by its arguments.
pub fn is_on_purpose() -> bool {
    let named = |test: &str| {
        let name = test.rsplit("::").next();
        name.is_some_and(|name| ON_PURPOSE.contains(&name))
    };
    std::thread::current().name().is_some_and(named) || std::env::args().any(|arg| named(&arg))
}
