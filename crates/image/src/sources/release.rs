//! Fetches the programs of an official release, verifies them with the published checksum, and extracts them from their
//! archive or image.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use faultline_domain::progress::Stage;

use super::{
    fetch::{Error, Fetcher, amount, failed, file_of, find_checksum},
    registry,
};
use crate::{
    Result, at,
    cache::Cache,
    recipe::{Component, Official, Recipe},
    source::{IMAGE, ORIGINS, Origin},
};

/// Fetches all programs of a component into a folder, and records their origins.
pub(crate) fn fetch(
    recipe: &Recipe,
    component: &Component,
    official: &Official,
    draft: &Path,
    cache: &Cache,
    progress: &Stage,
    stage: &'static str,
) -> Result<()> {
    let fetcher = Fetcher::new(&recipe.bases, cache);
    let count = component.build.len();
    let (mut fetched, mut origins) = (BTreeMap::new(), BTreeMap::new());
    for (done, program) in component.build.keys().enumerate() {
        let release = official.locate(program, &component.version);
        let part = |part: f64| {
            #[expect(clippy::cast_precision_loss, reason = "a handful of programs")]
            let fraction = (done as f64 + part) / count as f64;
            Some(fraction)
        };
        let on_bytes = |bytes: u64, all: Option<u64>| {
            #[expect(clippy::cast_precision_loss, reason = "a part of one")]
            let of = all.map_or(0.0, |all| bytes as f64 / all.max(1) as f64);
            let text = format!("{}, {}", file_of(&release.url), amount(bytes, all));
            progress.update(part(of), text);
        };
        progress.update(part(0.0), file_of(&release.url));
        // An archive with several programs is fetched once.
        if !fetched.contains_key(&release.url) {
            let scratch = draft.join(format!(".fetched-{}", fetched.len()));
            at(stage, fs::create_dir(&scratch))?;
            let got = if let Some(name) = release.url.strip_prefix(IMAGE) {
                fetch_from_image(&fetcher, name, &scratch, &on_bytes)
            } else {
                fetch_from_web(
                    &fetcher,
                    &release.url,
                    &release.checksum,
                    &scratch,
                    &on_bytes,
                )
            };
            let got = got.map_err(|e| failed(stage, &e))?;
            fetched.insert(release.url.clone(), got);
        }
        let to = draft.join(program);
        if let Some((origin, files)) = fetched.get(&release.url) {
            match (&release.member, files.as_slice()) {
                (None, [file]) => at(stage, fs::copy(file, &to).map(drop))?,
                (member, files) => extract(member.as_deref().unwrap_or(program), files, &to)
                    .map_err(|reason| {
                        let url = release.url.clone();
                        failed(stage, &Error::Unusable { url, reason })
                    })?,
            }
            origins.insert(program.clone(), origin.clone());
        }
        at(
            stage,
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)),
        )?;
    }
    for number in 0..fetched.len() {
        at(
            stage,
            fs::remove_dir_all(draft.join(format!(".fetched-{number}"))),
        )?;
    }
    let text = serde_json::to_vec_pretty(&origins).unwrap_or_default();
    at(stage, fs::write(draft.join(ORIGINS), text))
}

type Fetched = (Origin, Vec<PathBuf>);

fn fetch_from_web(
    fetcher: &Fetcher<'_>,
    url: &str,
    checksum: &str,
    scratch: &Path,
    on_bytes: &dyn Fn(u64, Option<u64>),
) -> Result<Fetched, Error> {
    let text = fetcher.text(checksum)?;
    let file = file_of(url);
    let sha256 = find_checksum(&text, file).ok_or_else(|| Error::NoChecksum {
        file: file.to_owned(),
        url: checksum.to_owned(),
    })?;
    let to = scratch.join("file");
    fetcher.file(url, &sha256, &to, on_bytes)?;
    let url = url.to_owned();
    Ok((Origin { url, sha256 }, vec![to]))
}

fn fetch_from_image(
    fetcher: &Fetcher<'_>,
    name: &str,
    scratch: &Path,
    on_bytes: &dyn Fn(u64, Option<u64>),
) -> Result<Fetched, Error> {
    let layout = scratch.join("layout");
    let pulled = registry::pull(fetcher, name, &[name], &layout, scratch, on_bytes)?;
    let origin = Origin {
        url: pulled.url,
        sha256: pulled.digest,
    };
    // Later layers override earlier ones.
    Ok((origin, pulled.layers.into_iter().rev().collect()))
}

/// Extracts a file from the first of these archives that contains it.
fn extract(member: &str, archives: &[PathBuf], to: &Path) -> Result<(), String> {
    let plain = |name: &str| {
        name.trim_start_matches("./")
            .trim_start_matches('/')
            .to_owned()
    };
    let tar = |archive: &Path, flag: &str| {
        let mut command = Command::new("tar");
        command.arg(flag).arg("-f").arg(archive);
        command
    };
    let run = |command: &mut Command| {
        let out = command
            .output()
            .map_err(|e| format!("cannot run tar: {e}"))?;
        if out.status.success() {
            Ok(out.stdout)
        } else {
            Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
        }
    };
    for archive in archives {
        let listed = run(&mut tar(archive, "-t"))?;
        let listed = String::from_utf8_lossy(&listed);
        if let Some(entry) = listed.lines().find(|name| plain(name) == plain(member)) {
            let content = run(tar(archive, "-x").args(["-O", "--"]).arg(entry))?;
            if content.is_empty() {
                return Err(format!("{member} in it is not a file"));
            }
            return fs::write(to, content).map_err(|e| e.to_string());
        }
    }
    Err(format!("it contains no {member}"))
}

#[cfg(test)]
mod tests {
    use faultline_domain::progress::{Event, Progress};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::source::origins;
    use crate::{
        binaries,
        sources::{
            Source,
            server::{Answer, Server},
        },
    };

    fn recipe(base: &str) -> Recipe {
        let mut recipe: Recipe = serde_saphyr::from_str(
            r#"
name: k
summary: s
machine: {vcpus: 1, memory_mib: 256, disk_mib: 1024}
binaries:
  - name: kubernetes
    version: v1.36.3
    licence: Apache-2.0
    module: m
    build: {kubelet: a, kubectl: a}
    install: {kubelet: /usr/bin, kubectl: /usr/bin}
    official:
      - {url: "https://dl.k8s.io/release/{version}/bin/linux/amd64/{program}", checksum: "{url}.sha256"}
  - name: etcd
    version: v3.6.16
    licence: Apache-2.0
    module: m
    build: {etcdctl: a, etcdutl: a}
    install: {etcdctl: /bin, etcdutl: /bin}
    official:
      - url: https://github.com/etcd-io/etcd/releases/download/{version}/etcd-{version}-linux-amd64.tar.gz
        checksum: https://github.com/etcd-io/etcd/releases/download/{version}/SHA256SUMS
        member: etcd-{version}-linux-amd64/{program}
"#,
        )
        .unwrap();
        recipe.settle(Source::Official);
        recipe.bases.0.insert("*".to_owned(), base.parse().unwrap());
        recipe
    }

    const KUBE: &str = "dl.k8s.io/release/v1.36.3/bin/linux/amd64";
    const ETCD: &str = "github.com/etcd-io/etcd/releases/download/v3.6.16";
    const ARCHIVE: &str = "etcd-v3.6.16-linux-amd64.tar.gz";

    fn sum(content: &[u8]) -> String {
        hex::encode(Sha256::digest(content))
    }

    /// A folder laid out as the official hosts are, one folder a host; the programs are scripts.
    fn mirror(at: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for program in ["kubelet", "kubectl"] {
            let content = format!("#!/bin/sh\necho {program}\n").into_bytes();
            files.insert(
                format!("{KUBE}/{program}.sha256"),
                sum(&content).into_bytes(),
            );
            files.insert(format!("{KUBE}/{program}"), content);
        }
        let inner = at.join("inner/etcd-v3.6.16-linux-amd64");
        fs::create_dir_all(&inner).unwrap();
        for program in ["etcd", "etcdctl", "etcdutl"] {
            fs::write(inner.join(program), format!("#!/bin/sh\necho {program}\n")).unwrap();
        }
        let archive = at.join("inner/archive");
        let mut tar = Command::new("tar");
        tar.arg("-czf")
            .arg(&archive)
            .arg("-C")
            .arg(at.join("inner"))
            .arg("./etcd-v3.6.16-linux-amd64");
        assert!(tar.status().unwrap().success());
        let content = fs::read(archive).unwrap();
        let sums = format!(
            "{}  other.zip\n{}  {ARCHIVE}\n",
            "0".repeat(64),
            sum(&content)
        );
        files.insert(format!("{ETCD}/SHA256SUMS"), sums.into_bytes());
        files.insert(format!("{ETCD}/{ARCHIVE}"), content);
        for (path, content) in &files {
            let path = at.join("mirror").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        files
    }

    fn served(files: &BTreeMap<String, Vec<u8>>) -> Server {
        let server = Server::start([]);
        for (path, content) in files {
            server.serve(&format!("/{path}"), Answer::body(content));
        }
        server
    }

    fn build(recipe: &Recipe, cache: &Cache) -> Result<binaries::Programs> {
        binaries::build(recipe, cache, &Progress::ignored())
    }

    #[test]
    fn programs_come_from_a_server_or_a_folder_without_go() {
        let dir = tempfile::tempdir().unwrap();
        let server = served(&mirror(dir.path()));
        let folder = dir.path().join("mirror").display().to_string();
        let mut keys = Vec::new();
        for (n, base) in [server.url(""), folder].iter().enumerate() {
            let cache = Cache::at(dir.path().join(format!("cache{n}")));
            let recipe = recipe(base);
            let programs = build(&recipe, &cache).unwrap();
            for program in ["kubelet", "kubectl", "etcdctl", "etcdutl"] {
                let out = Command::new(&programs.files[program]).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), program);
            }
            assert!(!programs.files.contains_key("etcd"), "no node has it");
            let origins = origins(&programs.folders["etcd"]);
            assert_eq!(origins["etcdctl"].url, format!("https://{ETCD}/{ARCHIVE}"));
            assert_eq!(origins["etcdctl"], origins["etcdutl"]);
            let left: Vec<_> = fs::read_dir(&programs.folders["etcd"])
                .unwrap()
                .flatten()
                .collect();
            assert_eq!(left.len(), 3, "nothing but programs and origins: {left:?}");
            keys.push(binaries::keys(&recipe).unwrap());
        }
        assert_eq!(
            server.asked(&format!("/{ETCD}/{ARCHIVE}")),
            1,
            "one archive for both"
        );
        assert_eq!(keys[0], keys[1], "a mirror is no part of the address");
    }

    #[test]
    fn what_is_wrong_is_said_and_nothing_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let files = mirror(dir.path());
        let kubelet = format!("/{KUBE}/kubelet");
        let sums = format!("/{ETCD}/SHA256SUMS");
        let etcd = format!("/{ETCD}/{ARCHIVE}");
        let no_archive = format!("{}  {ARCHIVE}", sum(b"no archive"));
        type Change<'a> = (&'a str, Answer, &'a [&'a str]);
        let cases: [Change<'_>; 6] = [
            (
                &kubelet,
                Answer::body("evil"),
                &["kubelet", "expected SHA-256", "got", "--base"],
            ),
            (
                &kubelet,
                Answer::status(404),
                &["kubelet answered 404", "--source modules"],
            ),
            (
                &format!("{kubelet}.sha256"),
                Answer::status(404),
                &["kubelet.sha256 answered 404"],
            ),
            (
                &sums,
                Answer::body("nothing of the kind\n"),
                &["has no SHA-256 of", ARCHIVE],
            ),
            (
                &etcd,
                Answer::body(&files[&etcd[1..]]).cut_after(20),
                &["was interrupted", "resume the transfer"],
            ),
            (
                &sums,
                Answer::body(&no_archive),
                &["expected SHA-256", &sum(b"no archive")],
            ),
        ];
        for (n, (path, answer, words)) in cases.into_iter().enumerate() {
            let server = served(&files);
            server.serve(path, answer);
            let cache = Cache::at(dir.path().join(format!("cache{n}")));
            let error = build(&recipe(&server.url("")), &cache)
                .unwrap_err()
                .to_string();
            for word in words {
                assert!(error.contains(word), "{path}: {error}");
            }
            let component = if path.contains("etcd") {
                "etcd"
            } else {
                "kubernetes"
            };
            let key = &binaries::keys(&recipe("/")).unwrap()[component];
            assert!(cache.get("binaries", key).is_none(), "{path}");
        }
        // A file with the right checksum that is not an archive.
        let server = served(&files);
        server.serve(&sums, Answer::body(&no_archive));
        server.serve(&etcd, Answer::body("no archive"));
        let cache = Cache::at(dir.path().join("cache"));
        let error = build(&recipe(&server.url("")), &cache)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(ARCHIVE) && error.contains("can't be used"),
            "{error}"
        );
        // Building again resumes the transfer.
        let server = served(&files);
        build(&recipe(&server.url("")), &cache).unwrap();
        assert_eq!(server.asked(&kubelet), 0, "kubernetes was there already");
    }

    #[test]
    fn progress_tells_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        mirror(dir.path());
        let server = served(&mirror(dir.path()));
        let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let hearing = heard.clone();
        let progress = Progress::new(move |event| {
            if let Event::Update { text, fraction, .. } = event {
                hearing.lock().unwrap().push((text, fraction.unwrap()));
            }
        });
        let cache = Cache::at(dir.path().join("cache"));
        binaries::build(&recipe(&server.url("")), &cache, &progress).unwrap();
        let heard = heard.lock().unwrap();
        assert!(
            heard.contains(&("kubelet, 1 of 1 MiB".to_owned(), 1.0)),
            "{heard:?}"
        );
    }
}
