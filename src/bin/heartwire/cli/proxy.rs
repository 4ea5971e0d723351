//! The options of a client's proxy.

use clap::{ArgMatches, Args};
use heartwire::{Client, Error, Proxy};

use super::usage_error::{UsageError, refuse};
use super::values::is_unix;

/// Through which proxy a client connects. Without options, as the environment says.
#[derive(Debug, Args)]
#[command(next_help_heading = "Proxy")]
pub(crate) struct ProxyOptions {
    /// Connect through this proxy: [http://|socks5://|socks5h://][USER:PASSWORD@]HOST[:PORT], or "" for none. Default:
    /// that of the environment, by curl's variables
    #[arg(long, value_name = "PROXY", value_parser = parse_proxy)]
    proxy: Option<Choice>,

    /// Connect directly to these hosts, separated by commas: names with all names below them, addresses, networks, or *
    /// for all. Default: NO_PROXY of the environment
    #[arg(long, value_name = "HOSTS")]
    noproxy: Option<String>,
}

/// What `--proxy` says.
#[derive(Debug, Clone)]
enum Choice {
    None,
    Through(Proxy),
}

fn parse_proxy(text: &str) -> Result<Choice, Error> {
    if text.is_empty() { Ok(Choice::None) } else { Proxy::parse(text).map(Choice::Through) }
}

impl ProxyOptions {
    /// Refuses options that would have no effect beside the others, or with this URL.
    pub(super) fn check(&self, url: &str, given: &ArgMatches) -> Result<(), UsageError> {
        if is_unix(url) {
            return refuse(given, &["proxy", "noproxy"], "with a Unix socket");
        }
        match self.proxy {
            Some(Choice::None) => refuse(given, &["noproxy"], "with --proxy \"\""),
            _ => Ok(()),
        }
    }

    /// A client that connects as it should. As in curl, the environment's `NO_PROXY` goes for `--proxy` too.
    pub(crate) fn apply_to(&self, client: Client) -> Client {
        let proxy = match &self.proxy {
            Some(Choice::None) => return client,
            Some(Choice::Through(proxy)) => match no_proxy_of_environment() {
                Some(hosts) => proxy.clone().no_proxy(&hosts),
                None => proxy.clone(),
            },
            None => Proxy::from_env(),
        };
        client.proxy(match &self.noproxy {
            Some(hosts) => proxy.no_proxy(hosts),
            None => proxy,
        })
    }
}

fn no_proxy_of_environment() -> Option<String> {
    let read = |name| std::env::var(name).ok().filter(|hosts| !hosts.is_empty());
    read("no_proxy").or_else(|| read("NO_PROXY"))
}
