//! Requests that are wrong, or ask for what never was: each gets its answer, and costs nobody else anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;

use super::server::{Attack, Follower, Site, publish, subscribe};
use crate::rig::Rig;
use crate::support::{CLOSE, Client, Folder, Incoming, TEXT, masked, request_with};
use crate::{Checked, Control, Scenario, ensure, plain, scaled};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The largest message that the program takes.
const LARGEST: usize = 1024 * 1024;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "topics: since from elsewhere",
            server: plain,
            check: |rig| Attack::PLAIN.run(rig.patience, |site| strange_positions(site, false)),
            control: Control {
                what: "one of the positions is right",
                server: plain,
                check: |rig| Attack::PLAIN.run(rig.patience, |site| strange_positions(site, true)),
            },
            memory: 48,
        },
        Scenario {
            name: "topics: absurd JSON",
            server: plain,
            check: |rig| Attack::PLAIN.run(rig.patience, |site| absurd_json(site, false)),
            control: Control {
                what: "one of the requests is right",
                server: plain,
                check: |rig| Attack::PLAIN.run(rig.patience, |site| absurd_json(site, true)),
            },
            memory: 64,
        },
        Scenario {
            name: "topics: tokens of every wrong kind",
            server: plain,
            check: |rig| wrong_tokens(rig, false),
            control: Control {
                what: "one of the tokens is right",
                server: plain,
                check: |rig| wrong_tokens(rig, true),
            },
            memory: 48,
        },
    ]
}

/// Positions from the future, from another epoch, and from a history that is over: each is told one lost, and goes on.
fn strange_positions(site: &Site, is_one_right: bool) -> Checked {
    let mut client = site.client();
    client.send_text(&subscribe(["old".to_owned()]));
    let reply = client.text();
    let position = reply.split(r#""position":""#).nth(1).and_then(|rest| rest.split('"').next());
    let (epoch, _) = position.and_then(|position| position.split_once(':')).ok_or("no position")?;
    // One more than the history has room for.
    let mut publisher = site.flooder();
    publisher.send((0..1001).map(|_| publish("old", "x", None)));
    ensure!(publisher.wait_for_all(), "no answer");
    let mut strange = vec![format!("{epoch}:0")];
    strange.extend(["2000", "4294967296", "18446744073709551615"].map(|offset| format!("{epoch}:{offset}")));
    strange.extend(["0000000000000000:0", "ffffffffffffffff:18446744073709551615"].map(str::to_owned));
    if is_one_right {
        strange.push(format!("{epoch}:1001"));
    }
    for since in &strange {
        let mut client = site.client();
        client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"old","since":"{since}"}}]}}"#));
        let reply = client.text();
        let mut follower = Follower::new("old", &reply)?;
        let lost = client.text();
        ensure!(lost.starts_with(r#"{"type":"lost""#), "{since}: {lost}");
        let now = |text: &str| text.split(r#""position":""#).nth(1).map(str::to_owned);
        ensure!(now(&lost).map(|at| at.replace("\"}", "")) == now(&reply).map(|at| at.replace("\"}]}", "")), "{lost}");
        site.post("old", "next");
        let next = client.text();
        ensure!(follower.take(&next)? && next.contains(r#""text":"next""#), "{since}: {next}");
    }
    let malformed =
        ["", ":", "1:1", "0123456789ABCDEF:1", "0123456789abcdef:18446744073709551616", "0123456789abcdef:-1"];
    for since in malformed {
        client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"x","since":"{since}"}}]}}"#));
        let reply = loop {
            let text = client.text();
            if text.contains("subscribed") {
                break text;
            }
        };
        ensure!(reply.contains(r#""error":"bad-position""#), "{since}: {reply}");
    }
    Ok(format!("{} positions that never were, {} that are none", strange.len(), malformed.len()))
}

/// What is no request, in every way: the client is told so, and its connection stays open.
fn absurd_json(site: &Site, is_one_right: bool) -> Checked {
    let nested = |open: &str, close: &str, depth: usize| {
        format!(r#"{{"type":"subscribe","id":1,"topics":{}1{}}}"#, open.repeat(depth), close.repeat(depth))
    };
    let long = |text: &str| format!(r#"{{"type":"{}","id":1}}"#, text.repeat((LARGEST - 100) / text.len()));
    let mut absurd = vec![
        nested("[", "]", 100_000),
        nested(r#"{"a":"#, "}", 100_000),
        format!(r#"{{"type":{}"#, "[".repeat(LARGEST - 100)),
        "{".repeat(LARGEST - 100),
        format!(r#"{{"topics":{}"type":"dance"}}"#, r#"[],"topics":"#.repeat(50_000)),
        r#"{"type":"publish","type":"subscribe","id":1}"#.to_owned(),
        r#"{"type":"publish","id":1,"topic":"a","topic":"b","text":"x"}"#.to_owned(),
        r#"{"type":"publish","id":1,"topic":"a","text":"x","\u0074ext":"y"}"#.to_owned(),
        r#"{"type":"unsubscribe","id":1e400,"topics":["a"]}"#.to_owned(),
        r#"{"type":"unsubscribe","id":1.5,"topics":["a"]}"#.to_owned(),
        r#"{"type":"unsubscribe","id":-0,"topics":["a"]}"#.to_owned(),
        format!(r#"{{"type":"unsubscribe","id":{},"topics":["a"]}}"#, "9".repeat(500_000)),
        format!(r#"{{"type":"unsubscribe","id":1e{},"topics":["a"]}}"#, "9".repeat(500_000)),
        format!(r#"{{"type":"unsubscribe","id":0.{}1,"topics":["a"]}}"#, "0".repeat(500_000)),
        r#"{"type":"publish","id":1,"topic":"a","text":"\ud800"}"#.to_owned(),
        r#"{"type":"publish","id":1,"topic":"a","text":"\udc00\ud800"}"#.to_owned(),
        r#"{"type":"publish","id":1,"topic":"\u0000","text":"x"}"#.to_owned(),
        r#"{"type":"publish","id":1,"topic":"a","base64":"AA=A"}"#.to_owned(),
        "\u{feff}{\"type\":\"unsubscribe\",\"id\":1,\"topics\":[\"a\"]}".to_owned(),
        format!(r#"{{"type":"subscribe","id":1,"topics":[{}]}}"#, r#"{"topic":""},"#.repeat(90).trim_end_matches(',')),
        long("x"),
        long("\\u0000"),
        long("\u{1f600}"),
    ];
    if is_one_right {
        absurd.push(r#"{"type":"unsubscribe","id":1,"topics":[]}"#.to_owned());
    }
    let mut longest = 0;
    for text in &absurd {
        let mut client = site.client();
        client.send_text(text);
        let reply = client.text();
        ensure!(reply.contains(r#""error":""#), "{text:.80}: {reply:.200}");
        longest = longest.max(reply.len());
        // And it is still served.
        client.send_text(r#"{"type":"unsubscribe","id":7,"topics":["a"]}"#);
        ensure!(client.text() == r#"{"type":"unsubscribed","id":7,"topics":["a"]}"#, "{text:.80}: not served any more");
    }
    ensure!(longest < 16 * 1024, "a reply of {longest} bytes");
    // What is no text, or too long, ends the connection.
    for (bytes, code) in [
        (b"{\"type\":\"\xff\"}".to_vec(), 1007),
        (b"{\"type\":\"\xed\xa0\x80\"}".to_vec(), 1007),
        (vec![b'{'; LARGEST + 1], 1009),
    ] {
        let mut client = site.client();
        client.try_write(&masked(TEXT, &bytes));
        let found = close_code(&mut client)?;
        ensure!(found == Some(code), "closed with {found:?}, not {code}");
    }
    Ok(format!("{} kinds, answered in {longest} bytes at most", absurd.len() + 3))
}

fn close_code(client: &mut Client) -> Result<Option<u16>, String> {
    match client.next_within(crate::support::CEILING) {
        Incoming::Frame(frame) if frame.opcode == CLOSE => Ok(frame.close().0),
        other => Err(format!("{other:?} instead of a Close frame")),
    }
}

// Tokens. #############################################################################################################

fn token(header: &str, claims: &str, secret: &str) -> String {
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

/// Tokens that are not good, in the opening handshake and later: each is refused, and those who have a good one do not
/// notice. Then as many as can be.
fn wrong_tokens(rig: &Rig, is_one_right: bool) -> Checked {
    const HEADER: &str = r#"{"alg":"HS256"}"#;
    let folder = Folder::new();
    let path = folder.at("key");
    std::fs::write(&path, SECRET).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = |from_now: i64| {
        let expires = now.saturating_add_signed(from_now);
        format!(r#"{{"sub":"alice","subscribe":["*"],"publish":["*"],"exp":{expires}}}"#)
    };
    let good = token(HEADER, &claims(3600), SECRET);
    let signature = good.rsplit('.').next().expect("three parts").to_owned();
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let mut wrong = vec![
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        good[..good.len() - 2].to_owned(),
        format!("{good}A"),
        format!("{good}.{signature}"),
        good.replace('.', ".."),
        token(HEADER, &claims(-3600), SECRET),
        token(HEADER, &claims(3600), "another secret, another secret!!"),
        token(r#"{"alg":"none"}"#, &claims(3600), SECRET),
        format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(&claims(3600))),
        token(r#"{"alg":"RS256"}"#, &claims(3600), SECRET),
        token(r#"{"alg":"ES256"}"#, &claims(3600), SECRET),
        token(r#"{"alg":"HS256","alg":"none"}"#, &claims(3600), SECRET),
        token(r#"{"alg":"HS256","crit":["x"]}"#, &claims(3600), SECRET),
        token("[]", &claims(3600), SECRET),
        token(HEADER, "[]", SECRET),
        token(HEADER, "{", SECRET),
        token(HEADER, r#"{"sub":"alice","subscribe":["*"],"exp":"tomorrow"}"#, SECRET),
        token(HEADER, r#"{"sub":"alice","subscribe":["*"],"exp":1e400}"#, SECRET),
        token(HEADER, &format!(r#"{{"subscribe":{}}}"#, "[".repeat(2000)), SECRET),
        token(HEADER, &claims(3600).replace("\"exp\"", "\"exp\":1,\"exp\""), SECRET),
        format!("{}.{}.{signature}", encode(HEADER), encode(&claims(7200))),
        "x".repeat(5000),
    ];
    if is_one_right {
        wrong.push(good.clone());
    }
    let option = format!("--jwt-key-file={}", path.display());
    let headers = format!("Authorization: Bearer {good}\r\n");
    let attack = Attack { options: &[&option], headers: &headers, ..Attack::PLAIN };
    attack.run(rig.patience, |site| {
        for token in &wrong {
            let mut client = site.client();
            client.send_text(&format!(r#"{{"type":"authenticate","id":1,"token":"{token}"}}"#));
            let reply = client.text();
            ensure!(reply.contains(r#""error":"bad-token""#), "{token:.100}: {reply:.200}");
            client.send_text(&subscribe(["news".to_owned()]));
            ensure!(client.text().contains("forbidden"), "{token:.100}: it may subscribe");
            let headers = format!("Authorization: Bearer {token}\r\nSec-WebSocket-Protocol: heartwire.topics.v1\r\n");
            let mut client = Client::tcp(site.address);
            client.write(request_with("/", &headers).as_bytes());
            let status = client.answer().status;
            ensure!([400, 401].contains(&status), "{token:.100}: {status}");
        }
        let time = Duration::from_millis(scaled(3000, 500) as u64);
        let answered = site.flood(50, time, |number| {
            let token = &wrong[number as usize % wrong.len()];
            vec![format!(r#"{{"type":"authenticate","id":1,"token":"{token}"}}"#); 10]
        });
        Ok(format!("{} kinds refused, and then {answered}", wrong.len()))
    })
}
