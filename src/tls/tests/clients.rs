//! Client certificates.

use super::*;

#[test]
fn required_client_certificates_are_seen_and_a_client_without_one_is_told() {
    let (ca, devices) = (ca("a CA"), ca("devices"));
    let folder = Folder::new();
    let made = for_names(&ca, &["example.org"]);
    let server = made.server().require_client_certificates(folder.file("ca", devices.pem())).unwrap();
    let with = |made: &Made| trusting(&ca).client_certificate_pem(&made.chain, &made.key).unwrap();

    let pair = connect(&with(&device(&devices, "device,17")), &server).unwrap();
    let shown = Certificate::new(&pair.server.peer_certificates().unwrap()[0]);
    assert_eq!(shown.subject(), "CN=device\\,17");

    let Failed { client, server: heard } = fails(&trusting(&ca), &server);
    let (client, heard) = (client.unwrap(), heard.unwrap());
    assert_eq!((client.kind(), client.is_fatal()), (TlsErrorKind::OurCertificate, true));
    assert!(client.to_string().contains("asks for a client certificate, and none is set"), "{client}");
    assert!(heard.to_string().contains("the client presents no certificate"), "{heard}");

    let Failed { client, server: heard } = fails(&with(&device(&ca, "of another CA")), &server);
    let (client, heard) = (client.unwrap(), heard.unwrap());
    assert_eq!((client.kind(), heard.kind()), (TlsErrorKind::OurCertificate, TlsErrorKind::UnknownIssuer));

    let mut expired = params(&[]);
    expired.not_after = date_time_ymd(2021, 2, 3);
    let Failed { client, server: heard } = fails(&with(&signed(&devices, &expired)), &server);
    let (client, heard) = (client.unwrap(), heard.unwrap());
    assert_eq!((client.kind(), client.is_fatal()), (TlsErrorKind::OurCertificate, false), "{client}");
    assert!(heard.to_string().starts_with("the certificate of the client expired"), "{heard}");
}

#[test]
fn requested_client_certificates_may_be_missing_but_not_wrong() {
    let (ca, devices) = (ca("a CA"), ca("devices"));
    let folder = Folder::new();
    let made = for_names(&ca, &["example.org"]);
    let server = made.server().request_client_certificates(folder.file("ca", devices.pem())).unwrap();
    assert!(connect(&trusting(&ca), &server).unwrap().server.peer_certificates().is_none());
    let with = |made: &Made| trusting(&ca).client_certificate_pem(&made.chain, &made.key).unwrap();
    assert!(connect(&with(&device(&devices, "d")), &server).unwrap().server.peer_certificates().is_some());
    let heard = fails(&with(&device(&ca, "of another CA")), &server).server.unwrap();
    assert_eq!(heard.kind(), TlsErrorKind::UnknownIssuer, "{heard}");
}
