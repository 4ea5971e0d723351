//! What two ends agree to in the opening handshake (RFC 7692 sections 5 and 7.1), as pure functions, in the order in
//! which they are called: [`offer`] by a client, [`choose`] by a server, [`check_answer`] by the client.

use std::fmt;

use crate::deflate::Deflate;
use crate::http::extensions::Extension;
use crate::protocol::frame::Role;

const NAME: &str = "permessage-deflate";
const SERVER_NO_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";

/// The largest window, which is meant where no other is named.
const MOST_BITS: u8 = 15;

/// What holds for a connection whose messages may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    server: Direction,
    client: Direction,
}

/// What holds for the messages that one end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Direction {
    /// Whether a message may refer to those before it.
    pub(crate) takes_over: bool,
    /// 8 to 15.
    pub(crate) window_bits: u8,
    /// Whether the size of the window is said, though it be the largest.
    names_bits: bool,
}

impl Agreed {
    /// For what this end sends.
    pub(crate) fn sending(&self, role: Role) -> Direction {
        match role {
            Role::Server => self.server,
            Role::Client => self.client,
        }
    }

    /// For what this end receives.
    pub(crate) fn receiving(&self, role: Role) -> Direction {
        match role {
            Role::Server => self.client,
            Role::Client => self.server,
        }
    }
}

/// The value of the header by which a server agrees.
impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        for (direction, no_takeover, bits) in
            [(self.server, SERVER_NO_TAKEOVER, SERVER_BITS), (self.client, CLIENT_NO_TAKEOVER, CLIENT_BITS)]
        {
            if !direction.takes_over {
                write!(f, "; {no_takeover}")?;
            }
            if direction.names_bits {
                write!(f, "; {bits}={}", direction.window_bits)?;
            }
        }
        Ok(())
    }
}

/// What a client offers.
pub(crate) fn offer(deflate: &Deflate) -> String {
    let mut offer = NAME.to_owned();
    if !deflate.receives_with_context {
        offer += &format!("; {SERVER_NO_TAKEOVER}");
    }
    if !deflate.sends_with_context {
        offer += &format!("; {CLIENT_NO_TAKEOVER}");
    }
    // Says that the server may name a window for us (section 7.1.2.2).
    match deflate.window_bits {
        MOST_BITS => offer + &format!("; {CLIENT_BITS}"),
        bits => offer + &format!("; {SERVER_BITS}={bits}; {CLIENT_BITS}={bits}"),
    }
}

/// What a server agrees to: the first of the offers that it can accept. `None` if there is none, or `deflate` is
/// `None`. `needs_texts`: every text has to be understood by itself, so the client may not take its context over.
pub(crate) fn choose(deflate: &Deflate, offers: &[Extension], needs_texts: bool) -> Option<Agreed> {
    offers.iter().find_map(|extension| {
        let offered = Parameters::of(extension, Sender::Client)?;
        let server_bits = offered.server_bits.unwrap_or(MOST_BITS).min(deflate.window_bits);
        // A client is told a window only if it has said that it understands that (section 7.1.2.2).
        let client_bits = offered.client_bits.map(|bits| bits.unwrap_or(MOST_BITS).min(deflate.window_bits));
        Some(Agreed {
            server: Direction {
                takes_over: deflate.sends_with_context && !offered.server_no_takeover,
                window_bits: server_bits,
                names_bits: offered.server_bits.is_some() || server_bits < MOST_BITS,
            },
            client: Direction {
                takes_over: deflate.receives_with_context && !offered.client_no_takeover && !needs_texts,
                window_bits: client_bits.unwrap_or(MOST_BITS),
                names_bits: client_bits.is_some_and(|bits| bits < MOST_BITS),
            },
        })
    })
}

/// Checks what a server agreed to against what the client [offered](offer). `None`: the server declined.
pub(crate) fn check_answer(deflate: &Deflate, answer: &[Extension]) -> Result<Option<Agreed>, &'static str> {
    let extension = match answer {
        [] => return Ok(None),
        [extension] if extension.name.eq_ignore_ascii_case(NAME) => extension,
        [first, _, ..] if first.name.eq_ignore_ascii_case(NAME) => return Err("it accepted more than one extension"),
        _ => return Err("it uses an extension that was not offered"),
    };
    let Some(answered) = Parameters::of(extension, Sender::Server) else {
        return Err("its parameters of permessage-deflate are not valid");
    };
    let server_bits = answered.server_bits.unwrap_or(MOST_BITS);
    if answered.server_bits.is_some() && server_bits > deflate.window_bits {
        return Err("it chose a larger window for permessage-deflate than was offered");
    }
    let client_bits = answered.client_bits.flatten();
    Ok(Some(Agreed {
        // A server that goes on with its context although it was asked not to is understood all the same.
        server: Direction {
            takes_over: !answered.server_no_takeover,
            window_bits: server_bits,
            names_bits: answered.server_bits.is_some(),
        },
        client: Direction {
            takes_over: deflate.sends_with_context && !answered.client_no_takeover,
            window_bits: client_bits.unwrap_or(MOST_BITS).min(deflate.window_bits),
            names_bits: client_bits.is_some(),
        },
    }))
}

/// The parameters of one offer or answer.
#[derive(Debug, Default)]
struct Parameters {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
    /// A client may name the parameter without a value.
    client_bits: Option<Option<u8>>,
}

/// Who has sent parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

impl Parameters {
    /// `None` if this is another extension, or has a parameter that is unknown, named twice or of a value that it must
    /// not have (section 7.1): whoever sent it has to be declined.
    fn of(extension: &Extension, sender: Sender) -> Option<Self> {
        if !extension.name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut found = Self::default();
        for (name, value) in &extension.parameters {
            let is_new = match (&**name, value) {
                (SERVER_NO_TAKEOVER, None) => !std::mem::replace(&mut found.server_no_takeover, true),
                (CLIENT_NO_TAKEOVER, None) => !std::mem::replace(&mut found.client_no_takeover, true),
                (SERVER_BITS, Some(value)) => found.server_bits.replace(window_bits(value)?).is_none(),
                (CLIENT_BITS, Some(value)) => found.client_bits.replace(Some(window_bits(value)?)).is_none(),
                (CLIENT_BITS, None) if sender == Sender::Client => found.client_bits.replace(None).is_none(),
                _ => return None,
            };
            if !is_new {
                return None;
            }
        }
        Some(found)
    }
}

/// 8 to 15, without leading zeros (section 7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    ["8", "9", "10", "11", "12", "13", "14", "15"].iter().position(|bits| *bits == value).map(|at| at as u8 + 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::check;
    use crate::http::extensions;

    fn extensions(header: &str) -> Vec<Extension> {
        extensions::parse([header.as_bytes()].into_iter()).unwrap()
    }

    fn answer(deflate: &Deflate, offers: &str) -> Option<String> {
        choose(deflate, &extensions(offers), false).map(|agreed| agreed.to_string())
    }

    /// The usual answer, and what it has besides.
    fn plain(more: &str) -> Option<String> {
        Some(format!("permessage-deflate; server_no_context_takeover; client_no_context_takeover{more}"))
    }

    #[test]
    fn a_server_answers_what_browsers_and_libraries_offer() {
        let deflate = Deflate::new();
        for (offers, expected) in [
            // Chromium, Firefox, Python `websockets`, Node `ws`.
            ("permessage-deflate; client_max_window_bits", plain("")),
            ("permessage-deflate", plain("")),
            (
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
                Some(
                    "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; \
                     client_no_context_takeover; client_max_window_bits=12"
                        .to_owned(),
                ),
            ),
            ("PerMessage-Deflate;server_no_context_takeover ; client_no_context_takeover", plain("")),
            // A value in quotes.
            ("permessage-deflate; client_max_window_bits=\"10\"", plain("; client_max_window_bits=10")),
            // The largest window is said if it was asked for.
            (
                "permessage-deflate; server_max_window_bits=15",
                Some(
                    "permessage-deflate; server_no_context_takeover; server_max_window_bits=15; \
                     client_no_context_takeover"
                        .to_owned(),
                ),
            ),
            // Something else.
            ("", None),
            ("x-webkit-deflate-frame", None),
            ("permessage-bzip2, permessage-deflate", plain("")),
        ] {
            assert_eq!(answer(&deflate, offers), expected, "{offers}");
        }
    }

    #[test]
    fn an_offer_that_is_not_valid_is_declined_and_the_next_one_has_its_turn() {
        for bad in [
            "unknown",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover=1",
            "server_no_context_takeover=true",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=+9",
            "client_max_window_bits=0",
            "client_max_window_bits=9; client_max_window_bits",
            "Server_Max_Window_Bits=10",
        ] {
            let bad = format!("permessage-deflate; {bad}");
            assert_eq!(answer(&Deflate::new(), &bad), None, "{bad}");
            let fallback = format!("{bad}, permessage-deflate; client_max_window_bits=9, permessage-deflate");
            assert_eq!(answer(&Deflate::new(), &fallback), plain("; client_max_window_bits=9"), "{fallback}");
        }
    }

    #[test]
    fn a_server_grants_takeover_only_where_both_want_it() {
        let deflate = Deflate::new().context_takeover(true);
        for (offer, texts, expected) in [
            ("", false, ""),
            ("", true, "; client_no_context_takeover"),
            ("; server_no_context_takeover", false, "; server_no_context_takeover"),
            ("; client_no_context_takeover", false, "; client_no_context_takeover"),
        ] {
            let offers = extensions(&format!("permessage-deflate{offer}"));
            let agreed = choose(&deflate, &offers, texts).unwrap();
            assert_eq!(agreed.to_string(), format!("permessage-deflate{expected}"));
        }
        let sends = Deflate::new().sending_context_takeover(true);
        assert_eq!(
            answer(&sends, "permessage-deflate").as_deref(),
            Some("permessage-deflate; client_no_context_takeover")
        );
    }

    #[test]
    fn a_small_window_is_agreed_to_and_a_server_may_want_one_itself() {
        let small = Deflate::new().window_bits(10);
        let expected = |server: u8, client: &str| {
            Some(format!(
                "permessage-deflate; server_no_context_takeover; server_max_window_bits={server}; \
                 client_no_context_takeover{client}"
            ))
        };
        assert_eq!(answer(&small, "permessage-deflate"), expected(10, ""));
        let offers = "permessage-deflate; server_max_window_bits=8; client_max_window_bits";
        assert_eq!(answer(&small, offers), expected(8, "; client_max_window_bits=10"));
        let offers = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=9";
        assert_eq!(answer(&small, offers), expected(10, "; client_max_window_bits=9"));
    }

    #[test]
    fn what_a_client_offers_a_server_accepts_and_both_mean_the_same() {
        let settings = [
            Deflate::new(),
            Deflate::new().context_takeover(true),
            Deflate::new().window_bits(9),
            Deflate::new().sending_context_takeover(true).window_bits(12),
            Deflate::new().receiving_context_takeover(true),
        ];
        for (client, server) in settings.iter().flat_map(|client| settings.iter().map(move |server| (client, server))) {
            let offers = extensions(&offer(client));
            let agreed = choose(server, &offers, false).unwrap();
            let answer = extensions(&agreed.to_string());
            let understood = check_answer(client, &answer).unwrap().unwrap();
            for role in [Role::Server, Role::Client] {
                // A client may do less than it was granted, and never more.
                let (granted, used) = (agreed.sending(role), understood.sending(role));
                assert!(used.window_bits <= granted.window_bits, "{client:?} {server:?}");
                assert!(!used.takes_over || granted.takes_over, "{client:?} {server:?}");
            }
            assert_eq!(agreed.receiving(Role::Client).takes_over, understood.receiving(Role::Client).takes_over);
            assert!(!understood.receiving(Role::Client).takes_over || client.receives_with_context);
        }
    }

    fn settings() -> impl Strategy<Value = Deflate> {
        (9_u8..=15, any::<bool>(), any::<bool>()).prop_map(|(bits, sends, receives)| {
            Deflate::new().window_bits(bits).sending_context_takeover(sends).receiving_context_takeover(receives)
        })
    }

    /// Offers and answers, right and wrong.
    fn header() -> impl Strategy<Value = String> {
        let name =
            prop::sample::select(vec![SERVER_NO_TAKEOVER, CLIENT_NO_TAKEOVER, SERVER_BITS, CLIENT_BITS, "unknown", ""]);
        let value = prop::sample::select(vec!["", "=8", "=9", "=12", "=15", "=16", "=\"10\"", "=\"", "=", "=x"]);
        let parameter = (name, value).prop_map(|(name, value)| format!(";{name}{value}"));
        let extension =
            prop::collection::vec(parameter, 0..4).prop_map(|parameters| NAME.to_owned() + &parameters.concat());
        let list = prop::collection::vec(prop_oneof![5 => extension, 1 => Just("other".to_owned())], 0..3);
        prop_oneof![9 => list.prop_map(|list| list.join(", ")), 1 => "[ -~]{0,40}"]
    }

    /// Whatever is offered, the answer is one that the offer allows, and that the client understands as it is meant.
    #[test]
    fn fuzz_a_server_agrees_to_nothing_that_was_not_offered() {
        check(&(settings(), header(), any::<bool>()), |(deflate, header, needs_texts)| {
            let Some(offers) = extensions::parse([header.as_bytes()].into_iter()) else { return Ok(()) };
            let Some(agreed) = choose(&deflate, &offers, needs_texts) else { return Ok(()) };
            let answer = agreed.to_string();
            let answered = extensions(&answer);
            prop_assert_eq!(answered.len(), 1);
            let Some(answered) = Parameters::of(&answered[0], Sender::Server) else { panic!("{answer}") };
            let fits = offers.iter().filter_map(|offer| Parameters::of(offer, Sender::Client)).any(|offered| {
                (!offered.server_no_takeover || answered.server_no_takeover)
                    && offered.server_bits.is_none_or(|most| answered.server_bits.is_some_and(|bits| bits <= most))
                    && answered.client_bits.is_none_or(|bits| {
                        offered.client_bits.is_some_and(|most| bits <= Some(most.unwrap_or(MOST_BITS)))
                    })
            });
            prop_assert!(fits, "{header} was answered by {answer}");
            prop_assert!(!agreed.receiving(Role::Server).takes_over || !needs_texts);
            Ok(())
        });
    }

    /// Whatever is answered, a client refuses it, or sends no more than it was allowed to.
    #[test]
    fn fuzz_a_client_takes_no_liberties_with_what_was_answered() {
        check(&(settings(), header()), |(deflate, header)| {
            let Some(answer) = extensions::parse([header.as_bytes()].into_iter()) else { return Ok(()) };
            let Ok(Some(agreed)) = check_answer(&deflate, &answer) else { return Ok(()) };
            let Some(answered) = Parameters::of(&answer[0], Sender::Server) else { panic!("{header}") };
            let sending = agreed.sending(Role::Client);
            prop_assert!(!sending.takes_over || !answered.client_no_takeover && deflate.sends_with_context);
            prop_assert!(sending.window_bits <= answered.client_bits.flatten().unwrap_or(MOST_BITS));
            prop_assert!(sending.window_bits <= deflate.window_bits);
            prop_assert_eq!(agreed.receiving(Role::Client).takes_over, !answered.server_no_takeover);
            Ok(())
        });
    }

    #[test]
    fn a_client_refuses_answers_that_it_did_not_offer() {
        let client = Deflate::new().window_bits(12);
        for (answer, why) in [
            ("permessage-bzip2", "not offered"),
            ("permessage-deflate, permessage-deflate", "more than one"),
            ("permessage-deflate; unknown", "not valid"),
            ("permessage-deflate; client_max_window_bits", "not valid"),
            ("permessage-deflate; server_max_window_bits=13", "larger window"),
            ("permessage-deflate; server_no_context_takeover=1", "not valid"),
        ] {
            let error = check_answer(&client, &extensions(answer)).unwrap_err();
            assert!(error.contains(why), "{answer}: {error}");
        }
        assert_eq!(check_answer(&client, &[]), Ok(None));
        // One that insists on its context is understood.
        let agreed = check_answer(&client, &extensions("permessage-deflate")).unwrap().unwrap();
        assert!(agreed.receiving(Role::Client).takes_over && !agreed.sending(Role::Client).takes_over);
        assert_eq!((agreed.receiving(Role::Client).window_bits, agreed.sending(Role::Client).window_bits), (15, 12));
    }
}
