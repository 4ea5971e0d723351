//! Every kind of error, its text and whether it is fatal.

use super::*;

fn alert(alert: AlertDescription) -> TlsError {
    TlsError::of_connection(Cause::AlertReceived(alert), Peer::Server("example.org"))
}

#[test]
fn alerts_have_the_names_of_the_standard() {
    for (alert, name) in [
        (AlertDescription::CertificateRequired, "certificate_required"),
        (AlertDescription::UnknownCA, "unknown_ca"),
        (AlertDescription::UnrecognisedName, "unrecognized_name"),
        (AlertDescription::BadRecordMac, "bad_record_mac"),
        (AlertDescription::from(200), "200"),
    ] {
        assert_eq!(alert_name(alert), name);
    }
}

#[test]
fn alerts_that_another_attempt_may_not_meet_again_are_not_fatal() {
    use AlertDescription as Alert;
    let fatal = [
        Alert::CertificateRequired,
        Alert::UnknownCA,
        Alert::BadCertificate,
        Alert::ProtocolVersion,
        Alert::HandshakeFailure,
        Alert::NoApplicationProtocol,
        Alert::UnrecognisedName,
    ];
    let passing = [Alert::CertificateExpired, Alert::InternalError, Alert::BadRecordMac, Alert::UserCanceled];
    assert!(fatal.into_iter().all(|it| alert(it).is_fatal()));
    assert!(!passing.into_iter().any(|it| alert(it).is_fatal()));
}

#[test]
fn names_that_the_peer_chose_are_bounded_and_stay_in_their_line() {
    let presented = (0..1000).map(|number| format!("{number}\n{}", "x".repeat(500))).collect();
    let expected = ServerName::try_from("example.org").unwrap();
    let error = CertificateError::NotValidForNameContext { expected, presented };
    let error = TlsError::of_connection(error.into(), Peer::Server("example.org"));
    let text = error.to_string();
    assert!(text.len() < 1000 && text.contains("995 more") && !text.contains('\n'), "{text}");
    assert_eq!((error.kind(), error.is_fatal()), (TlsErrorKind::WrongName, true));
}

#[test]
fn whatever_goes_wrong_is_of_a_kind_that_is_fatal_or_not() {
    use TlsErrorKind as Kind;
    for (cause, kind, is_fatal, text) in [
        (CertificateError::Revoked.into(), Kind::BadCertificate, true, "has been revoked"),
        (CertificateError::BadEncoding.into(), Kind::BadCertificate, true, "is broken"),
        (CertificateError::Expired.into(), Kind::Expired, false, "has expired: it has to be renewed"),
        (CertificateError::NotValidYet.into(), Kind::NotValidYet, false, "is this machine's clock right?"),
        (CertificateError::NotValidForName.into(), Kind::WrongName, true, "is for another name"),
        (CertificateError::ApplicationVerificationFailure.into(), Kind::BadCertificate, true, "cannot be used"),
        (PeerIncompatible::ServerDoesNotSupportTls12Or13.into(), Kind::NothingInCommon, true, "neither TLS 1.2"),
        (PeerIncompatible::NoCipherSuitesInCommon.into(), Kind::NothingInCommon, true, "NoCipherSuitesInCommon"),
        (rustls::PeerMisbehaved::TooManyKeyUpdateRequests.into(), Kind::Protocol, false, "broke the rules of TLS"),
        (Cause::DecryptError, Kind::Protocol, false, "damaged on its way"),
        (InvalidMessage::MissingKeyExchange.into(), Kind::Protocol, false, "not valid: MissingKeyExchange"),
        (Cause::FailedToGetRandomBytes, Kind::Other, false, "no random numbers"),
        (Cause::General("own".to_owned()), Kind::Other, false, "TLS with example.org failed: "),
    ] {
        let error = TlsError::of_connection(cause, Peer::Server("example.org"));
        assert_eq!((error.kind(), error.is_fatal()), (kind, is_fatal), "{error}");
        assert!(error.to_string().contains(text) && error.source().is_some(), "{error}");
    }
}

/// As a verifier of the application's own may return it.
#[derive(Debug)]
struct Panics;

impl fmt::Display for Panics {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("in a Display of the application's")
    }
}

impl StdError for Panics {}

#[test]
fn an_error_of_the_application_that_cannot_be_shown_does_no_harm() {
    let other = || rustls::OtherError(std::sync::Arc::new(Panics));
    for cause in [Cause::Other(other()), CertificateError::Other(other()).into()] {
        let text = TlsError::of_connection(cause, Peer::Client).to_string();
        assert!(text.contains("(an error that cannot be shown)"), "{text}");
    }
}
