//! What can be typed: every command parses its own examples, has one, and names its exit codes.

use clap::Command;
use clap::error::ErrorKind;

/// Every command, the hidden ones too, with the program itself.
fn every_command() -> Vec<Command> {
    let mut all = vec![evenkeel_cli::command()];
    for command in evenkeel_cli::command().get_subcommands() {
        all.push(command.clone());
        all.extend(command.get_subcommands().cloned());
    }
    all
}

fn parse(line: &str) -> Result<clap::ArgMatches, clap::Error> {
    evenkeel_cli::command().try_get_matches_from(line.split_whitespace())
}

#[test]
fn the_definitions_are_consistent() {
    evenkeel_cli::command().debug_assert();
}

#[test]
fn every_help_ends_with_an_example_and_names_the_exit_codes() {
    for mut command in every_command() {
        let name = command.get_name().to_owned();
        for help in [
            command.render_help().to_string(),
            command.render_long_help().to_string(),
        ] {
            let (_, examples) = help
                .split_once("Example")
                .unwrap_or_else(|| panic!("{name} has no example"));
            for line in examples.lines().skip(1) {
                assert!(
                    line.starts_with("  evenkeel "),
                    "the help of {name} does not end with examples: {line}"
                );
            }
            assert!(
                help.contains("Exit codes:"),
                "{name} does not name its exit codes"
            );
        }
    }
}

#[test]
fn every_example_can_be_typed() {
    for mut command in every_command() {
        let help = command.render_help().to_string();
        let (_, examples) = help.split_once("Example").unwrap();
        for line in examples.lines().skip(1) {
            // Up to where the shell takes over.
            let line = line.split(['|', '>', '&']).next().unwrap();
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}

#[test]
fn every_option_has_help() {
    for command in every_command() {
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{} of {} has no help",
                argument.get_id(),
                command.get_name()
            );
        }
    }
}

#[test]
fn a_wait_has_an_optional_service_and_a_duration_with_its_unit() {
    for line in [
        "evenkeel status --wait",
        "evenkeel status --wait web",
        "evenkeel status --wait web --timeout 2m",
        "evenkeel status --wait --timeout 1m30s --json",
    ] {
        parse(line).unwrap();
    }
    let error = parse("evenkeel status --wait --timeout 30").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ValueValidation);
    assert!(error.to_string().contains("30s"), "{error}");
    let error = parse("evenkeel status --timeout 30s").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
}

#[test]
fn what_makes_no_sense_has_exit_code_2() {
    for line in [
        "evenkeel",
        "evenkeel frobnicate",
        "evenkeel run",
        "evenkeel check",
        "evenkeel reload now",
        "evenkeel reference pages",
        "evenkeel status --wait web api",
        "evenkeel backend",
        "evenkeel backend drain",
        "evenkeel backend drain web/b1 --timeout 2m",
        "evenkeel backend weight web/b1 65536",
        "evenkeel backend weight web/b1 half",
        "evenkeel why",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn help_and_version_have_exit_code_0() {
    for line in [
        "evenkeel --help",
        "evenkeel --version",
        "evenkeel status --help",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
    }
    let version = parse("evenkeel --version").unwrap_err().to_string();
    assert!(version.contains(std::env::consts::ARCH), "{version}");
}
