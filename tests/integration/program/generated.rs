//! `heartwire completions` and `heartwire manual`. Whether man(1) takes the pages is for the stage `packaging`.

use std::process::Command;

use crate::support::process::{Process, heartwire};

/// What the program prints with these arguments.
fn printed(arguments: &[&str]) -> String {
    let mut process = Process::start(&mut heartwire(arguments));
    assert_eq!(process.wait().code(), Some(0), "{arguments:?}: {:#?}", process.stderr.lines());
    assert_eq!(process.stderr.lines(), [""; 0], "{arguments:?}");
    process.stdout.lines().join("\n")
}

#[test]
fn each_shell_gets_completions_of_commands_and_options() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for word in ["connect", "ping-interval"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    /// What bash-completion does: it calls the function with the command, the word and the one before it.
    const ASK: &str = r#"eval "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _heartwire heartwire "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let script = printed(&["completions", "bash"]);
    for (words, completed) in [
        (&["serve", "--ping-"][..], "--ping-interval"),
        (&["--ping-"], "--ping-interval"),
        (&["conn"], "connect"),
        (&["check", "--time"], "--timeout"),
        (&["connect", "--liveness", "pong"], "pong-only"),
    ] {
        let asked = Command::new("bash").args(["-c", ASK, "bash", &script, "heartwire"]).args(words).output();
        let Ok(asked) = asked else { return println!("skipped: completions: bash is not installed") };
        let (stdout, stderr) = (String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
        assert_eq!((stdout.trim_end(), &*stderr), (completed, ""), "{words:?}");
    }
}

#[test]
fn the_manual_has_options_variables_signals_and_examples_and_one_page_for_each_command() {
    let page = printed(&["manual"]);
    for part in [
        ".TH heartwire 1",
        "heartwire \\- WebSockets",
        "\\-\\-ping\\-interval",
        "HEARTWIRE_PING_INTERVAL",
        "heartwire\\-connect(1)",
        ".SH \"SIGNALS\"\n.nf\nSIGINT",
        ".SH \"EXIT CODES\"\n.nf\n0    an orderly end",
    ] {
        assert!(page.contains(part), "{part:?} in {page}");
    }
    for (command, option) in [
        ("serve", "max\\-connections"),
        ("connect", "exit\\-timeout"),
        ("check", "timeout"),
        ("subscribe", "position\\-file"),
        ("publish", "message"),
    ] {
        let page = printed(&["manual", command]);
        let title = format!(".TH heartwire-{command} 1");
        assert!(page.contains(&title) && page.contains(&format!("\\-\\-{option}")), "{command}: {page}");
    }
}
