//! Options from the environment: `HEARTWIRE_` and the name of the option, as in `HEARTWIRE_PING_INTERVAL`.
//!
//! Each variable becomes an argument, unless the command line has that option already, or one that excludes it. So an
//! option means the same wherever it comes from, and its value is checked in the same way.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::usage_error::UsageError;

/// The variable of an option or argument.
pub(super) fn variable(arg: &Arg) -> String {
    format!("HEARTWIRE_{}", arg.get_long().unwrap_or(arg.get_id().as_str()).replace('-', "_").to_uppercase())
}

/// The command, with the variables named in its help. Their values are not shown: headers and URLs hold secrets.
pub(super) fn with_variables_in_help(command: Command) -> Command {
    let name = |arg: Arg| {
        let variable = variable(&arg);
        arg.env(variable).hide_env_values(true)
    };
    command
        .mut_args(name)
        .mut_subcommands(|command| if has_variables(command.get_name()) { command.mut_args(name) } else { command })
}

/// Whether the command of this name does something that an environment is set up for. Completions, manuals and help are
/// only printed.
pub(super) fn has_variables(name: &str) -> bool {
    !["completions", "manual", "help"].contains(&name)
}

/// The arguments that the environment adds to those of a command that are `given`. An empty variable counts as not set.
pub(super) fn arguments(
    command: &Command,
    given: &ArgMatches,
    read: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, UsageError> {
    let is_given = |arg: &Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let mut arguments = Vec::new();
    let mut all: Vec<_> = command.get_arguments().filter(|_| has_variables(command.get_name())).collect();
    // Those without a name are known by their order.
    all.sort_by_key(|arg| arg.get_index());
    for arg in all {
        let name = variable(arg);
        let Some(value) = read(&name).filter(|value| !value.is_empty()) else { continue };
        if is_given(arg) || command.get_arg_conflicts_with(arg).into_iter().any(is_given) {
            continue;
        }
        let value = value.into_string().map_err(|_| UsageError::new(format!("the value of {name} is not UTF-8")))?;
        let invalid = |why: &str| UsageError::new(format!("invalid value '{value}' for '{name}': {why}"));
        match (arg.get_long(), arg.get_action()) {
            (Some(long), ArgAction::SetTrue) => match &*value {
                "true" => arguments.push(format!("--{long}")),
                "false" => {}
                _ => return Err(invalid("expected true or false")),
            },
            (Some(long), ArgAction::Append) => {
                let parts = value.split(separator(arg)).map(str::trim).filter(|part| !part.is_empty());
                arguments.extend(parts.map(|part| format!("--{long}={part}")));
            }
            (Some(long), _) => arguments.push(format!("--{long}={value}")),
            // It would be taken for an option.
            (None, _) if value.starts_with('-') => return Err(invalid("it must not begin with a hyphen")),
            (None, ArgAction::Append) => {
                let parts = value.split(separator(arg)).map(str::trim).filter(|part| !part.is_empty());
                arguments.extend(parts.map(str::to_owned));
            }
            (None, _) => arguments.push(value),
        }
    }
    Ok(arguments.into_iter().map(OsString::from).collect())
}

/// What separates the values of an option that may be repeated. Those of headers have commas of their own.
fn separator(arg: &Arg) -> char {
    if arg.get_long() == Some("header") { '\n' } else { ',' }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Command as Parsed, command, parse_from};
    use super::*;

    /// What is parsed of a command line in an environment.
    fn parse(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Parsed, String> {
        let environment: BTreeMap<_, _> = environment.iter().copied().collect();
        let arguments = ["heartwire"].iter().chain(arguments).map(OsString::from).collect();
        parse_from(arguments, |name| environment.get(name).map(OsString::from)).map_err(|error| error.to_string())
    }

    fn parsed(arguments: &[&str], environment: &[(&str, &str)]) -> String {
        format!("{:?}", parse(arguments, environment).unwrap_or_else(|error| panic!("{arguments:?}: {error}")))
    }

    fn outcome(arguments: &[&str], environment: &[(&str, &str)]) -> String {
        format!("{:?}", parse(arguments, environment))
    }

    /// A value for an option, other than its default.
    fn sample(arg: &Arg) -> String {
        if !arg.get_action().takes_values() {
            return "true".to_owned();
        }
        if let Some(last) = arg.get_possible_values().last() {
            return last.get_name().to_owned();
        }
        let value_name = arg.get_value_names().unwrap_or_default().first().map_or("", |name| name.as_str());
        let sample = match value_name {
            // Shorter than the default of --timeout, or else two options of `heartwire check` have no effect.
            "DURATION" => "2s",
            "DURATION|off" => "7ms",
            "SHORTEST..LONGEST" => "1s..2s",
            "BYTES" => "12345",
            "MODE" => "640",
            "N" => "7",
            "COUNT,BYTES,AGE|off" => "7,2MiB,3s",
            "PATTERN" => "sample/*",
            "NAME: VALUE" => "X-Sample: a, b",
            "NAME" => "sample.v1",
            "ORIGIN" => "https://sample.example",
            "ADDR|CIDR" => "10.0.0.0/8",
            "FILE" => "sample.log",
            "ADDRESS" => "127.0.0.1:7",
            "URL" if arg.get_id() == "auth_url" => "http://sample.example/auth",
            "URL" if arg.get_id() == "backplane" => "redis://sample.example/",
            "URL" => "ws://sample.example/",
            "PROXY" => "socks5h://sample.example",
            "HOSTS" => "sample.example,10.0.0.0/8",
            "TOPIC" => "sample/topic",
            "MESSAGE" => "a sample, with a comma",
            "POSITION|earliest" => "0123456789abcdef:7",
            other => panic!("no sample value for {other}"),
        };
        sample.to_owned()
    }

    const URL: &str = "ws://127.0.0.1/";

    /// What an option needs beside it, or else it has no effect.
    fn beside(arg: &Arg, command: &str) -> &'static [&'static str] {
        match arg.get_id().as_str() {
            _ if ["subscribe", "publish"].contains(&command) && arg.get_id() == "presence" => &[],
            "expect" | "announcements" => &["--heartbeat", "peer"],
            "tls_cert" => &["--tls-key", "a.pem"],
            "tls_key" => &["--tls-cert", "a.pem"],
            "tls_client_ca" => &["--tls-cert", "a.pem", "--tls-key", "a.pem"],
            "tls_client_cert" => &["--tls-cert", "a.pem", "--tls-key", "a.pem", "--tls-client-ca", "a.pem"],
            "history" | "history_file" | "presence" | "allow_publish" | "publish_key_file" | "jwt_key_file"
            | "backplane" => &["--mode", "topics"],
            "auth_timeout" | "auth_header" => &["--auth-url", "http://127.0.0.1/"],
            "jwt_audience" => &["--mode", "topics", "--jwt-key-file", "a.pem"],
            "cert" => &["--key", "a.pem"],
            "key" => &["--cert", "a.pem"],
            _ => &[],
        }
    }

    #[test]
    fn each_option_of_each_command_means_the_same_from_the_environment_and_is_named_in_the_help() {
        let mut seen = 0;
        for command in command().get_subcommands().filter(|command| has_variables(command.get_name())) {
            let name = command.get_name();
            let help = with_variables_in_help(command.clone()).term_width(1000).render_help().to_string();
            // A topic follows the URL, and the command line has both or none.
            let topic: &[&str] = if ["subscribe", "publish"].contains(&name) { &["news"] } else { &[] };
            for arg in command.get_arguments().filter(|arg| topic.is_empty() || arg.get_long().is_some()) {
                let (variable, sample) = (variable(arg), sample(arg));
                let url: &[&str] = match arg.get_id().as_str() {
                    _ if name == "serve" => &[],
                    "url" => &[],
                    "cacert" | "cert" | "key" | "insecure" => &["wss://127.0.0.1/"],
                    _ => &[URL],
                };
                let words = [&[name][..], url, topic, beside(arg, name)].concat();
                let long = arg.get_long().map(|long| format!("--{long}"));
                let given: Vec<&str> = match &long {
                    Some(long) if !arg.get_action().takes_values() => vec![long],
                    Some(long) => vec![long, &sample],
                    None => vec![&sample],
                };
                let on_the_line = parsed(&[&words[..], &given].concat(), &[]);
                assert_eq!(parsed(&words, &[(&variable, &sample)]), on_the_line, "{variable}");
                if arg.get_id() != "url" {
                    // Which is an error if what stands beside it needs it.
                    let without = outcome(&words, &[]);
                    assert_ne!(without, outcome(&[&words[..], &given].concat(), &[]), "{variable}: the default");
                    assert_eq!(without, outcome(&words, &[(&variable, "")]), "{variable}, empty");
                }
                assert!(help.contains(&format!("[env: {variable}]")), "{variable} in {help}");
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn the_command_line_wins() {
        let environment = [
            ("HEARTWIRE_PING_INTERVAL", "5s"),
            ("HEARTWIRE_ALLOW_ORIGIN", "https://a.example"),
            ("HEARTWIRE_STATUS", "true"),
            ("HEARTWIRE_ADDRESS", "127.0.0.1:7"),
        ];
        let given = ["9001", "--ping-interval", "3s", "--allow-origin", "https://b.example", "--no-status"];
        assert_eq!(parsed(&given, &environment), parsed(&given, &[]));
        assert_ne!(parsed(&[], &environment), parsed(&[], &[]));
    }

    #[test]
    fn lists_are_separated_by_commas_and_headers_by_line_ends() {
        let origins = ["--allow-origin", "https://a.example", "--allow-origin", "http://b.example:8080"];
        let environment = [("HEARTWIRE_ALLOW_ORIGIN", "https://a.example, http://b.example:8080,")];
        assert_eq!(parsed(&[], &environment), parsed(&origins, &[]));

        let headers = ["connect", URL, "--header", "Accept: a, b", "--header", "X: y"];
        let environment = [("HEARTWIRE_HEADER", "Accept: a, b\r\nX: y\n")];
        assert_eq!(parsed(&headers[..2], &environment), parsed(&headers, &[]));
    }

    #[cfg(feature = "topics")]
    #[test]
    fn url_and_topics_may_both_come_from_the_environment() {
        let environment = [("HEARTWIRE_URL", URL), ("HEARTWIRE_TOPIC", "a/b, c")];
        assert_eq!(parsed(&["subscribe"], &environment), parsed(&["subscribe", URL, "a/b", "c"], &[]));
        let environment = [("HEARTWIRE_URL", URL), ("HEARTWIRE_TOPIC", "a/b")];
        assert_eq!(parsed(&["publish"], &environment), parsed(&["publish", URL, "a/b"], &[]));
    }

    #[test]
    fn flags_are_true_or_false() {
        assert_eq!(parsed(&[], &[("HEARTWIRE_STATUS", "true")]), parsed(&["--status"], &[]));
        let environment = [("HEARTWIRE_STATUS", "false"), ("HEARTWIRE_NO_STATUS", "true")];
        assert_eq!(parsed(&[], &environment), parsed(&["--no-status"], &[]));
    }

    #[test]
    fn what_the_environment_has_for_another_command_or_to_no_effect_is_ignored() {
        assert_eq!(parsed(&["connect", URL], &[("HEARTWIRE_MODE", "chat")]), parsed(&["connect", URL], &[]));
        let environment = [("HEARTWIRE_PING_INTERVAL", "off"), ("HEARTWIRE_MAX_MISSED", "7")];
        assert!(parse(&[], &environment).is_ok());
        assert!(parse(&["check", URL], &[("HEARTWIRE_CONNECT_TIMEOUT", "10s")]).is_ok());
        // What is given has to have an effect, also beside what the environment has.
        let error = parse(&["--max-missed", "7"], &environment).unwrap_err();
        assert!(error.contains("--max-missed has no effect with --ping-interval off"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_a_variable_is_one_line_that_names_it() {
        for (arguments, variable, value, told) in [
            (&[][..], "HEARTWIRE_PING_INTERVAL", "soon", "expected a duration such as"),
            (&["serve", "9001"], "HEARTWIRE_PING_INTERVAL", "-5s", "must be 1ms or more"),
            (&[], "HEARTWIRE_MODE", "chat", "[possible values: echo, broadcast"),
            (&[], "HEARTWIRE_ADDRESS", "nowhere", "neither a command (such as serve or connect) nor an address"),
            (&[], "HEARTWIRE_ADDRESS", "connect", "expected HOST:PORT"),
            (&[], "HEARTWIRE_ADDRESS", "--status", "must not begin with a hyphen"),
            (&[], "HEARTWIRE_TRUST_PROXY", "10.0.0.1,localhost", "expected an address or a network"),
            (&[], "HEARTWIRE_TEXT_HEARTBEAT", "yes", "expected true or false"),
            (&["connect", URL], "HEARTWIRE_HEADER", "Host: s3cret", "the URL says which host"),
            (&["connect", URL], "HEARTWIRE_PROXY", "https://user:s3cret@proxy.example", "TLS to the proxy itself"),
            (&["connect", URL], "HEARTWIRE_PROXY", "user:s3cret@proxy.example:x", "the port is not valid"),
            (&["connect"], "HEARTWIRE_URL", "http://127.0.0.1/?s3cret", "expected ws://"),
            (&["check"], "HEARTWIRE_URL", "nowhere", "expected ws://"),
        ] {
            let error = parse(arguments, &[(variable, value)]).unwrap_err();
            assert!(error.contains(variable) && error.contains(told), "{variable}: {error}");
            assert!(error.lines().count() == 1 && !error.contains("s3cret"), "{variable}: {error}");
        }
        let environment = [("HEARTWIRE_STATUS", "true"), ("HEARTWIRE_NO_STATUS", "true")];
        let error = parse(&[], &environment).unwrap_err();
        assert!(environment.iter().all(|(variable, _)| error.contains(variable)), "{error}");
        // A mistake on the command line is told first, and as one.
        let error = parse(&["--ping-interval", "soon"], &[("HEARTWIRE_PING_INTERVAL", "later")]).unwrap_err();
        assert!(error.contains("'soon' for '--ping-interval"), "{error}");
    }

    #[test]
    fn help_shows_no_value_of_a_variable() {
        // The library reads the environment when an option names its variable, so this needs one that is set: PATH.
        let command = with_variables_in_help(Command::new("x").arg(Arg::new("p").long("p")));
        let command = command.mut_arg("p", |arg| arg.env("PATH"));
        let help = command.clone().render_help().to_string();
        let path = std::env::var("PATH").unwrap();
        assert!(help.contains("[env: PATH]") && !help.contains(&path), "{help}");
        let shown = command.mut_arg("p", |arg| arg.hide_env_values(false)).term_width(0).render_help().to_string();
        assert!(shown.contains(&path), "the control: {shown}");
    }
}
