use sha2::{Digest, Sha256};

use super::*;
use crate::sources::server::{Answer, Server};

const URL: &str = "https://h.example/v1/tool";

fn sum(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

struct Bed {
    folder: tempfile::TempDir,
    cache: Cache,
    bases: Bases,
}

impl Bed {
    fn new(base: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            cache: Cache::at(folder.path().join("cache")),
            bases: Bases([("h.example".to_owned(), base.parse().unwrap())].into()),
            folder,
        }
    }

    fn to(&self) -> PathBuf {
        self.folder.path().join("fetched")
    }

    fn file(&self, expected: &str) -> Result<()> {
        Fetcher::new(&self.bases, &self.cache).file(URL, expected, &self.to(), &|_, _| {})
    }

    fn parts(&self) -> Vec<PathBuf> {
        fs::read_dir(self.cache.folder().join(STAGE))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "part"))
            .collect()
    }
}

#[test]
fn checksums_are_found_in_every_form_they_are_published_in() {
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    for (text, found) in [
        (a.clone(), Some(&a)),
        (format!("{}\n", a.to_uppercase()), Some(&a)),
        (format!("{b}  other\n{a}  tool\n"), Some(&a)),
        (format!("{a} *tool"), Some(&a)),
        (format!("{a}  ./_dist/tool"), Some(&a)),
        (
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{a}  tool\n-----BEGIN PGP SIGNATURE-----\n"
            ),
            Some(&a),
        ),
        (format!("{a}  tool.sig\n{b}  my-tool"), None),
        ("<html>".to_owned(), None),
        (String::new(), None),
    ] {
        assert_eq!(find_checksum(&text, "tool").as_ref(), found, "{text}");
    }
}

#[test]
fn a_file_comes_from_a_server_and_from_a_folder() {
    let server = Server::start([("/gh/v1/tool", Answer::body("#!/bin/sh\n"))]);
    let mirror = tempfile::tempdir().unwrap();
    fs::create_dir(mirror.path().join("v1")).unwrap();
    fs::write(mirror.path().join("v1/tool"), "#!/bin/sh\n").unwrap();
    for base in [
        server.url("/gh/"),
        format!("file://{}", mirror.path().display()),
    ] {
        let bed = Bed::new(&base);
        bed.file(&sum(b"#!/bin/sh\n")).unwrap();
        assert_eq!(fs::read(bed.to()).unwrap(), b"#!/bin/sh\n");
        assert!(bed.parts().is_empty());
    }
}

#[test]
fn what_its_checksum_does_not_say_is_kept_nowhere() {
    let server = Server::start([("/v1/tool", Answer::body("evil"))]);
    let mirror = tempfile::tempdir().unwrap();
    fs::create_dir(mirror.path().join("v1")).unwrap();
    fs::write(mirror.path().join("v1/tool"), "evil").unwrap();
    for base in [server.url(""), mirror.path().display().to_string()] {
        let bed = Bed::new(&base);
        let error = bed.file(&sum(b"good")).unwrap_err();
        let text = error.to_string();
        for part in ["tool", &sum(b"good"), &sum(b"evil"), &base] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!bed.to().exists() && bed.parts().is_empty());
    }
}

#[test]
fn a_missing_file_is_named_with_its_place() {
    let server = Server::start([]);
    let text = Bed::new(&server.url(""))
        .file(&sum(b""))
        .unwrap_err()
        .to_string();
    assert!(text.contains("/v1/tool answered 404"), "{text}");
    assert_eq!(
        server.asked("/v1/tool"),
        1,
        "it will not be there the next moment"
    );
    let mirror = tempfile::tempdir().unwrap();
    let bed = Bed::new(&mirror.path().display().to_string());
    let error = bed.file(&sum(b"")).unwrap_err();
    let path = mirror.path().join("v1/tool").display().to_string();
    assert!(
        error.to_string().contains(&path) && error.to_string().contains(URL),
        "{error}"
    );
    assert!(error.advice().contains("--base"));
}

#[test]
fn a_transfer_that_breaks_off_is_continued_where_it_was() {
    let body = "0123456789".repeat(1000);
    let server = Server::start([("/v1/tool", Answer::body(&body).cut_after(4000).once())]);
    let bed = Bed::new(&server.url(""));
    bed.file(&sum(body.as_bytes())).unwrap();
    assert_eq!(fs::read_to_string(bed.to()).unwrap(), body);
    assert_eq!(
        server.ranges("/v1/tool"),
        [None, Some("bytes=4000-".to_owned())]
    );
}

#[test]
fn a_server_without_ranges_is_asked_for_all_again() {
    let body = "0123456789".repeat(1000);
    let answer = Answer::body(&body).cut_after(4000).once().without_ranges();
    let server = Server::start([("/v1/tool", answer)]);
    let bed = Bed::new(&server.url(""));
    bed.file(&sum(body.as_bytes())).unwrap();
    assert_eq!(fs::read_to_string(bed.to()).unwrap(), body);
}

#[test]
fn what_broke_off_for_good_is_kept_for_the_next_build() {
    let body = "0123456789".repeat(1000);
    let server = Server::start([("/v1/tool", Answer::body(&body).cut_after(100))]);
    let bed = Bed::new(&server.url(""));
    let error = bed.file(&sum(body.as_bytes())).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert!(error.advice().contains("resume the transfer"));
    assert!(!bed.to().exists());
    let part = fs::read_to_string(&bed.parts()[0]).unwrap();
    assert_eq!(part, body[..400], "a piece of each attempt");
}

#[test]
fn a_piece_of_something_else_is_thrown_away() {
    let server = Server::start([("/v1/tool", Answer::body("0123456789"))]);
    let bed = Bed::new(&server.url(""));
    let expected = sum(b"0123456789");
    let downloads = bed.cache.folder().join(STAGE);
    fs::create_dir_all(&downloads).unwrap();
    // As long as the file itself, and longer, the server has nothing to add.
    for piece in ["xyz", "xyzxyzxyzx", "xyzxyzxyzxyzxyz"] {
        fs::write(downloads.join(format!("{expected}.part")), piece).unwrap();
        bed.file(&expected).unwrap();
        assert_eq!(fs::read(bed.to()).unwrap(), b"0123456789");
    }
}

#[test]
fn a_server_that_falters_is_asked_again() {
    let server = Server::start([("/v1/tool", Answer::status(503).once_then("here"))]);
    let bed = Bed::new(&server.url(""));
    bed.file(&sum(b"here")).unwrap();
    assert_eq!(server.asked("/v1/tool"), 2);
}

#[test]
fn who_can_not_be_reached_is_named() {
    let server = Server::start([]);
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let bases = Bases(
        [("up", server.url("")), ("down", gone.clone())]
            .map(|(host, base)| (host.to_owned(), base.parse().unwrap()))
            .into(),
    );
    let hosts = ["up", "down"].map(|host| (host.to_owned(), false)).into();
    let missing = unreachable(&bases, &hosts);
    assert_eq!(
        missing.len(),
        1,
        "an answer of 404 is an answer: {missing:?}"
    );
    assert!(missing[0].contains(&gone), "{missing:?}");
}

#[test]
fn addresses_stay_in_their_folder() {
    let bed = Bed::new("/srv");
    let fetcher = Fetcher::new(&bed.bases, &bed.cache);
    assert!(fetcher.text("https://h.example/../etc/passwd").is_err());
}
