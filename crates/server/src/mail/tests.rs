use super::*;
use crate::tests::smtp::{Fault, MailServer};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

async fn send(mailer: &Mailer, subject: &str, body: &str) -> Result<(), NotSent> {
    let to = "ann@example.org".parse().unwrap();
    let letter = Letter {
        id: "m1",
        to: &to,
        subject,
        body,
    };
    mailer.send(&letter, now()).await
}

fn mailer(settings: Mail) -> Mailer {
    Mailer::new(settings, "labs.example.org").unwrap()
}

/// Returns settings that trust the server's certificate and sign in with this password, and the files that they name.
fn signing_in(server: &MailServer, password: &str) -> (Mail, [tempfile::NamedTempFile; 2]) {
    let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    std::fs::write(files[0].path(), password).unwrap();
    std::fs::write(files[1].path(), &server.certificate).unwrap();
    let settings = Mail {
        user: Some("faultline".to_owned()),
        password_file: Some(files[0].path().to_owned()),
        authority_file: Some(files[1].path().to_owned()),
        ..server.settings()
    };
    (settings, files)
}

#[tokio::test]
async fn a_mail_arrives_as_it_was_written() {
    let server = MailServer::begin().await;
    let mailer = mailer(server.settings());
    let body = "Hello.\n.dot\n\nhttps://labs.example.org/invitation?token=flt_0123456789012345678901234567890123456789\n";
    send(&mailer, "Invitation", body).await.unwrap();
    let got = server.only();
    assert_eq!(got.from, "faultline@example.org");
    assert_eq!(got.to, ["ann@example.org"]);
    assert_eq!(got.text().trim_end(), body.trim_end());
    let header = |name: &str| got.header(name).unwrap_or_default();
    assert_eq!(header("From"), "Faultline <faultline@example.org>");
    assert_eq!(header("To"), "ann@example.org");
    assert_eq!(header("Subject"), "Invitation");
    assert_eq!(header("Message-ID"), "<m1@example.org>");
    assert_eq!(header("Auto-Submitted"), "auto-generated");
    assert_eq!(header("Date"), "Fri, 15 Jan 2027 08:00:00 +0000");
    assert_eq!(header("Content-Type"), "text/plain; charset=utf-8");
    assert!(mailer.answer().unwrap().result.is_ok());

    send(&mailer, "Übung „DNS“", "Grüße").await.unwrap();
    let got = server.only();
    assert!(got.raw.is_ascii(), "{}", got.raw);
    assert_eq!(got.text().trim_end(), "Grüße");
}

#[tokio::test]
async fn nothing_in_a_subject_becomes_a_header() {
    let server = MailServer::begin().await;
    let mailer = mailer(server.settings());
    for subject in [
        "a\r\nBcc: ben@example.org",
        "a\nBcc: ben@example.org",
        "a\rB: c",
        "ä\r\n\r\nbody",
    ] {
        if send(&mailer, subject, "text").await.is_err() {
            continue;
        }
        let got = server.only();
        assert_eq!(got.to, ["ann@example.org"]);
        assert_eq!(got.header("Bcc"), None, "{}", got.raw);
        assert_eq!(got.header("B"), None, "{}", got.raw);
        assert_eq!(got.text().trim_end(), "text", "{}", got.raw);
    }
}

#[tokio::test]
async fn encrypted_connections_are_verified_before_anything_is_said() {
    for encryption in [Encryption::Starttls, Encryption::Tls] {
        let server = MailServer::begin_with(encryption, Some(("faultline", "s3cret"))).await;
        let (settings, _files) = signing_in(&server, "s3cret\n");
        let trusting = mailer(settings.clone());
        trusting.probe(now()).await.unwrap();
        send(&trusting, "Hello", "text").await.unwrap();
        let got = server.only();
        assert!(got.is_encrypted);
        assert_eq!(got.user.as_deref(), Some("faultline"));

        let (wrong, _files) = signing_in(&server, "guess");
        let e = send(&mailer(wrong), "Hello", "text").await.unwrap_err();
        assert!(e.problem.contains("wrong password"), "{e}");
        assert!(e.is_down && !e.is_final, "an operator can mend it: {e:?}");

        let unknown = Mail {
            authority_file: None,
            ..settings
        };
        let e = send(&mailer(unknown), "Hello", "text").await.unwrap_err();
        assert!(e.problem.to_lowercase().contains("certificate"), "{e}");
        assert_eq!(server.take().len(), 0);
    }
}

#[tokio::test]
async fn without_the_encryption_that_was_asked_for_nothing_is_sent() {
    let server = MailServer::begin().await;
    let settings = Mail {
        encryption: Encryption::Starttls,
        ..server.settings()
    };
    let mailer = mailer(settings);
    let e = send(&mailer, "Hello", "text").await.unwrap_err();
    assert!(e.is_down, "{e:?}");
    assert_eq!(server.take().len(), 0);
    assert!(mailer.answer().unwrap().result.is_err());
}

#[tokio::test]
async fn a_refusal_is_told_from_a_delay_and_from_a_broken_server() {
    let server = MailServer::begin().await;
    let mut mailer = mailer(server.settings());
    mailer.timeout = Duration::from_millis(300);
    for (fault, is_final, is_down, says) in [
        (Fault::Recipient(550), true, false, "no such mailbox"),
        (Fault::Recipient(554), true, false, "no such mailbox"),
        (Fault::Recipient(450), false, false, "no such mailbox"),
        (Fault::Recipient(421), false, true, "no such mailbox"),
        (Fault::HangUp, false, true, ""),
        (Fault::Vanish, false, true, ""),
        (Fault::Silence, false, true, "no answer within"),
    ] {
        server.fault(fault);
        let e = send(&mailer, "Hello", "text").await.unwrap_err();
        assert_eq!(
            (e.is_final, e.is_down),
            (is_final, is_down),
            "{fault:?} {e}"
        );
        assert!(e.problem.contains(says), "{fault:?} {e}");
        assert!(!e.problem.contains('\u{1b}'), "cleaned: {e}");
        assert_eq!(mailer.answer().unwrap().result.is_err(), is_down);
    }
    server.take();
    send(&mailer, "Hello", "text").await.unwrap();
    server.only();
}

#[tokio::test]
async fn a_closed_port_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = super::probe(&Mail::example(port)).await.unwrap_err();
    assert_eq!(error.matches("refused").count(), 1, "{error}");
}
