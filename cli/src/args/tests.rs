use std::collections::BTreeSet;
use std::time::Duration;

use clap::CommandFactory;
use jiff::Timestamp;
use spotreel_domain::model::Expert;

use super::submit::{TASK_FLAGS, lora};
use super::values::{Since, since, subject};
use super::*;

#[test]
fn a_subject_is_refused_where_it_could_match_nothing() {
    for wrong in ["", "a b", "spotreel.", "spotreel..task"] {
        let told = subject(wrong).unwrap_err();
        assert!(told.contains("spotreel.task.*.failed"), "{wrong:?}: {told}");
    }
    assert_eq!(subject("spotreel.task.>"), Ok("spotreel.task.>".to_owned()));
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_lists_every_command_and_only_those() {
    let help = Cli::command().render_help().to_string();
    let section = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    let listed: Vec<_> = section
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let wanted = [
        "dev",
        "provision",
        "quote",
        "submit",
        "watch",
        "list",
        "search",
        "status",
        "get",
        "cancel",
        "retry",
        "why",
        "batches",
        "fleet",
        "top",
        "events",
        "alarms",
        "receipt",
        "cost",
        "run",
        "hold",
        "resume",
        "stop",
        "drain",
        "keys",
        "webhooks",
        "models",
        "help",
    ];
    assert_eq!(listed, wanted);
}

#[test]
fn every_flag_and_command_says_what_it_sets_or_does() {
    fn look(command: &clap::Command, path: &str) {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        for arg in shown {
            let name = format!("{path} {}", arg.get_id());
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{name} has no help");
            for vague in ["so many", "so long", "whoever", "whatever"] {
                assert!(!help.to_lowercase().contains(vague), "{name}: {help}");
            }
        }
        for command in command.get_subcommands().filter(|one| !one.is_hide_set()) {
            let name = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{name} has no help");
            look(command, &name);
        }
    }
    look(&Cli::command(), "spotreel");
}

#[test]
fn flags_for_the_connection_are_explained_once_and_not_in_every_help() {
    let mut command = Cli::command();
    let whole = command.render_help().to_string();
    let global = command.get_arguments().filter(|arg| arg.is_global_set());
    for flag in global.filter_map(|arg| arg.get_long()) {
        assert!(whole.contains(&format!("--{flag}")), "{flag}: {whole}");
    }
    let list = command.find_subcommand_mut("list").unwrap();
    let help = list.render_help().to_string();
    assert!(!help.contains("--nats-url"), "{help}");
}

#[test]
fn a_cancel_of_nothing_is_told_all_that_it_could_name() {
    let refused = Cli::try_parse_from(["spotreel", "cancel"]).unwrap_err();
    let text = refused.to_string();
    for way in ["IDS", "--label", "--state", "--model", "--owner"] {
        assert!(text.contains(way), "{text}");
    }
}

#[test]
fn a_lora_is_a_name_a_strength_and_an_expert() {
    let lora = |text: &str| lora(text).map(|one| (one.name, one.strength, one.expert));
    assert_eq!(lora("fox"), Ok(("fox".into(), 1.0, None)));
    let all = ("fox".into(), -0.5, Some(Expert::High));
    assert_eq!(lora("fox=-0.5:high"), Ok(all));
    let expert = ("fox".into(), 1.0, Some(Expert::Low));
    assert_eq!(lora("fox:low"), Ok(expert));
    assert!(lora("fox=much").is_err() && lora("fox:middle").is_err());
}

#[test]
fn a_file_says_everything_itself() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    assert!(parse("spotreel submit -f tasks.jsonl --wait").is_ok());
    assert!(parse("spotreel submit -f tasks.jsonl --seed 3").is_err());
    assert!(parse("spotreel submit -f t --label a=b --priority high --idempotency-key n").is_ok());
    assert!(parse("spotreel submit").is_err());
    assert!(parse("spotreel submit --prompt fox --label a").is_err());
    assert!(parse("spotreel --dir d submit --prompt fox --label a=b").is_ok());
}

#[test]
fn every_flag_of_submit_belongs_to_one_task_or_goes_with_a_file() {
    const WITH_A_FILE: [&str; 8] = [
        "stray",
        "model",
        "priority",
        "idempotency_key",
        "labels",
        "file",
        "wait",
        "json",
    ];
    let command = Cli::command();
    let submit = command.find_subcommand("submit").unwrap();
    let flags: BTreeSet<_> = submit
        .get_arguments()
        .map(|arg| arg.get_id().as_str())
        .collect();
    let known: BTreeSet<_> = TASK_FLAGS.into_iter().chain(WITH_A_FILE).collect();
    assert_eq!(flags, known);
}

#[test]
fn wrong_numbers_and_stray_words_are_refused() {
    let refused = |line: &str| {
        let refused = Cli::try_parse_from(line.split(' ')).unwrap_err();
        refused.to_string()
    };
    for number in ["nan", "inf", "-inf", "five"] {
        let text = refused(&format!("spotreel submit --prompt fox --guidance={number}"));
        assert!(text.contains("must be a number"), "{text}");
    }
    let text = refused("spotreel submit --prompt fox --expires-in 0s");
    assert!(text.contains("greater than zero"), "{text}");
    let text = refused("spotreel submit --prompt fox --expires-in soon");
    assert!(text.contains("such as 30min, 2h or 1d"), "{text}");
    let text = refused("spotreel submit fox");
    assert!(text.contains("--prompt \"fox\""), "{text}");
}

#[test]
fn lists_go_back_by_durations_dates_and_times() {
    let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
    let at = |text: &str| since(text).unwrap().at(now).unwrap().to_string();
    assert_eq!(at("2h"), "2026-11-30T10:00:00Z");
    assert_eq!(at("2026-11-29"), "2026-11-29T00:00:00Z");
    assert_eq!(at("2026-11-29T18:00"), "2026-11-29T18:00:00Z");
    assert_eq!(at("2026-11-29T18:00:00+01:00"), "2026-11-29T17:00:00Z");
    for bad in ["yesterday", "", "5"] {
        let told = since(bad).unwrap_err();
        assert!(told.contains("such as 2h or 1d"), "{bad}: {told}");
    }
    let ever = Since::Ago(Duration::MAX).at(now);
    assert!(ever.is_err(), "there was no such time: {ever:?}");
}

#[test]
fn what_excludes_each_other_is_refused() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    assert!(parse("spotreel dev --dir d --trigger-at 5 --max-wait 1h").is_ok());
    assert!(parse("spotreel dev --dir d --trigger-at 0").is_err());
    assert!(parse("spotreel dev --dir d --workers 2 --trigger-at 5").is_err());
    assert!(parse("spotreel fleet --pool a --json").is_ok());
    assert!(parse("spotreel fleet reap --every 15m --all").is_ok());
    assert!(parse("spotreel fleet reap --every 15m --once").is_err());
    assert!(parse("spotreel hold").is_err());
    let template = "spotreel fleet template";
    assert!(parse(&format!("{template} --ami a --user-data f")).is_ok());
    assert!(parse(&format!("{template} --ami a --image i --parameters /p")).is_ok());
    assert!(parse(&format!("{template} --print --image i --parameters /p")).is_ok());
    assert!(parse(&format!("{template} --ami a --image i")).is_err());
    assert!(
        parse(&format!(
            "{template} --ami a --image i --parameters /p --user-data f"
        ))
        .is_err()
    );
    assert!(parse(&format!("{template} --user-data f")).is_err());
    assert!(parse("spotreel cancel").is_err());
    assert!(parse("spotreel cancel a b").is_ok());
    assert!(parse("spotreel cancel --label night=1 --state queued").is_ok());
    assert!(parse("spotreel cancel a --label night=1").is_err());
    assert!(parse("spotreel batches default-1 --limit 3").is_err());
    for list in ["list", "search fox"] {
        assert!(parse(&format!("spotreel {list} --limit 1")).is_ok());
        for limit in ["0", "4294967296", "many"] {
            let refused = parse(&format!("spotreel {list} --limit {limit}"));
            let refused = refused.err().map(|error| error.to_string());
            let refused = refused.unwrap_or_default();
            assert!(refused.contains("from 1 to 4294967295"), "{refused}");
        }
    }
    assert!(parse("spotreel stop default-1 --now --by me").is_ok());
}
