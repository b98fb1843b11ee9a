//! A small mail server on loopback that behaves: it has EHLO, STARTTLS, AUTH PLAIN and one mail after another, and refuses
//! what is out of order. It can also misbehave once, as [`Fault`] says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::config::mail::{Encryption, Mail};

/// How the server misbehaves in one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It closes the connection instead of greeting.
    HangUp,
    /// It answers the recipient with this code.
    Recipient(u16),
    /// It accepts the mail and closes the connection instead of saying so.
    Vanish,
    /// It never answers the mail.
    Silence,
}

/// A mail that the server has accepted.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub from: String,
    pub to: Vec<String>,
    /// The message as it came over the network, with dots unstuffed.
    pub raw: String,
    pub is_encrypted: bool,
    /// Who has signed in, if anybody.
    pub user: Option<String>,
}

impl Received {
    /// Returns the value of a header, as it came.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.raw.split("\r\n\r\n").next().unwrap();
        let unfolded = head.replace("\r\n ", " ");
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned());
        unfolded.lines().find_map(value)
    }

    /// Returns the text, decoded.
    pub fn text(&self) -> String {
        let (_, body) = self.raw.split_once("\r\n\r\n").unwrap();
        let body = body.replace("\r\n", "\n");
        match self.header("Content-Transfer-Encoding").as_deref() {
            Some("7bit") => body,
            Some("quoted-printable") => {
                let whole = body.replace("=\n", "");
                let mut bytes = Vec::new();
                let mut rest = whole.as_bytes();
                while let [first, tail @ ..] = rest {
                    if *first == b'=' {
                        let (hex, after) = tail.split_at(2);
                        let hex = std::str::from_utf8(hex).unwrap();
                        bytes.push(u8::from_str_radix(hex, 16).unwrap());
                        rest = after;
                    } else {
                        bytes.push(*first);
                        rest = tail;
                    }
                }
                String::from_utf8(bytes).unwrap()
            }
            Some("base64") => {
                let packed: String = body.split_whitespace().collect();
                String::from_utf8(BASE64_STANDARD.decode(packed).unwrap()).unwrap()
            }
            other => panic!("unknown encoding {other:?}"),
        }
    }
}

#[derive(Default)]
struct Inner {
    received: Vec<Received>,
    faults: VecDeque<Fault>,
}

/// The mail server.
#[derive(Clone)]
pub(crate) struct MailServer {
    pub port: u16,
    inner: Arc<Mutex<Inner>>,
    /// The user and the password without which nothing is accepted.
    login: Option<(&'static str, &'static str)>,
    encryption: Encryption,
    tls: Option<TlsAcceptor>,
    /// The certificate, in PEM.
    pub certificate: String,
}

impl MailServer {
    /// Starts a server without encryption and sign-in.
    pub async fn begin() -> Self {
        Self::begin_with(Encryption::None, None).await
    }

    pub async fn begin_with(
        encryption: Encryption,
        login: Option<(&'static str, &'static str)>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tls, certificate) = acceptor();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            inner: Arc::default(),
            login,
            encryption,
            tls: Some(tls),
            certificate,
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move {
                    // The client may end the connection at any time.
                    let _ = server.serve(stream).await;
                });
            }
        });
        server
    }

    /// Returns settings for this server.
    pub fn settings(&self) -> Mail {
        Mail {
            encryption: self.encryption,
            ..Mail::example(self.port)
        }
    }

    /// Misbehaves in this way in the next conversation that has no fault yet.
    pub fn fault(&self, fault: Fault) {
        self.inner.lock().unwrap().faults.push_back(fault);
    }

    /// Returns what was received, and forgets it.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.inner.lock().unwrap().received)
    }

    /// Returns the only mail that was received, and forgets it.
    pub fn only(&self) -> Received {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }

    async fn serve(&self, stream: tokio::net::TcpStream) -> std::io::Result<()> {
        let fault = self.inner.lock().unwrap().faults.pop_front();
        if fault == Some(Fault::HangUp) {
            return Ok(());
        }
        let tls = self.tls.as_ref().unwrap();
        match self.encryption {
            Encryption::None => {
                let mut stream = BufReader::new(stream);
                self.converse(&mut stream, fault, false, true)
                    .await
                    .map(drop)
            }
            Encryption::Tls => {
                let mut stream = BufReader::new(tls.accept(stream).await?);
                self.converse(&mut stream, fault, true, true)
                    .await
                    .map(drop)
            }
            Encryption::Starttls => {
                let mut stream = BufReader::new(stream);
                if self.converse(&mut stream, fault, false, true).await? {
                    let mut stream = BufReader::new(tls.accept(stream.into_inner()).await?);
                    self.converse(&mut stream, fault, true, false).await?;
                }
                Ok(())
            }
        }
    }

    /// Returns true if the client wants to continue with TLS.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut BufReader<S>,
        fault: Option<Fault>,
        is_encrypted: bool,
        greets: bool,
    ) -> std::io::Result<bool> {
        if greets {
            say(stream, "220 mail.example ready").await?;
        }
        let (mut user, mut from, mut to) = (None, None, Vec::new());
        loop {
            let Some(line) = line(stream).await? else {
                return Ok(false);
            };
            let verb = line.split(' ').next().unwrap().to_ascii_uppercase();
            let may_send = self.login.is_none() || user.is_some();
            let must_encrypt = self.encryption != Encryption::None && !is_encrypted;
            let reply = match verb.as_str() {
                "EHLO" if must_encrypt => "250-mail.example\r\n250 STARTTLS".to_owned(),
                "EHLO" if self.login.is_some() => "250-mail.example\r\n250 AUTH PLAIN".to_owned(),
                "EHLO" => "250 mail.example".to_owned(),
                "NOOP" => "250 fine".to_owned(),
                "STARTTLS" if must_encrypt => {
                    say(stream, "220 go on").await?;
                    return Ok(true);
                }
                "QUIT" => {
                    say(stream, "221 bye").await?;
                    return Ok(false);
                }
                "AUTH" if !must_encrypt => {
                    let given = line.strip_prefix("AUTH PLAIN ").unwrap_or_default();
                    let given = BASE64_STANDARD.decode(given).unwrap_or_default();
                    let (name, password) = self.login.unwrap();
                    if given == format!("\0{name}\0{password}").into_bytes() {
                        user = Some(name.to_owned());
                        "235 welcome".to_owned()
                    } else {
                        "535 wrong password".to_owned()
                    }
                }
                "MAIL" if may_send && !must_encrypt => {
                    from = Some(path(&line));
                    "250 fine".to_owned()
                }
                "RCPT" if from.is_some() => match fault {
                    Some(Fault::Recipient(code)) => {
                        format!("{code} no such mailbox \u{1b}[31mhere")
                    }
                    _ => {
                        to.push(path(&line));
                        "250 fine".to_owned()
                    }
                },
                "DATA" if !to.is_empty() => {
                    say(stream, "354 go on").await?;
                    let Some(raw) = data(stream).await? else {
                        return Ok(false);
                    };
                    if fault == Some(Fault::Silence) {
                        std::future::pending::<()>().await;
                    }
                    self.inner.lock().unwrap().received.push(Received {
                        from: from.take().unwrap(),
                        to: std::mem::take(&mut to),
                        raw,
                        is_encrypted,
                        user: user.clone(),
                    });
                    if fault == Some(Fault::Vanish) {
                        return Ok(false);
                    }
                    "250 accepted".to_owned()
                }
                _ => "503 out of order".to_owned(),
            };
            say(stream, &reply).await?;
        }
    }
}

async fn say<S: AsyncWrite + AsyncRead + Unpin>(
    stream: &mut BufReader<S>,
    reply: &str,
) -> std::io::Result<()> {
    stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
    stream.flush().await
}

async fn line<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    assert!(line.ends_with("\r\n"), "{line:?}");
    Ok(Some(line.trim_end().to_owned()))
}

/// Reads a message up to the line with a dot.
async fn data<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
) -> std::io::Result<Option<String>> {
    let mut raw = String::new();
    loop {
        let mut next = String::new();
        if stream.read_line(&mut next).await? == 0 {
            return Ok(None);
        }
        if next == ".\r\n" {
            return Ok(Some(raw));
        }
        raw.push_str(next.strip_prefix('.').unwrap_or(&next));
    }
}

/// Returns the address between `<` and `>`.
fn path(line: &str) -> String {
    let (_, rest) = line.split_once('<').unwrap();
    rest.split('>').next().unwrap().to_owned()
}

fn acceptor() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}
