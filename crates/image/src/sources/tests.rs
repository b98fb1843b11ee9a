use std::{collections::BTreeMap, fs, process::Command};

use faultline_domain::{progress::Progress, template::Form};

use super::*;
use crate::source::ALL;
use crate::{binaries, containers, sources::server::Image};

fn recipe(source: Source) -> Recipe {
    let mut recipe: Recipe = serde_saphyr::from_str(
            r#"
name: k
summary: s
machine: {vcpus: 1, memory_mib: 256, disk_mib: 1024}
binaries:
  - name: cni
    version: v1.2
    licence: MIT
    module: m
    build: {bridge: a, portmap: a, flannel: b, own: c}
    install: {bridge: /x, flannel: /x, own: /x}
    official:
      - {url: "https://h.example/{version}/cni-{number}.tgz", checksum: "{url}.sha256", member: "./{program}", programs: [bridge, portmap]}
      - {url: "oci://r.example/flannel:v9", member: flannel, programs: [flannel], version: v9}
  - name: api
    version: v1
    licence: MIT
    module: m
    build: {api: a, spare: a}
    official: [{url: "https://d.example/{program}", checksum: "{url}.sha256"}]
containers:
  - {name: "r.example/api:1", binaries: [api], entrypoint: [/api], official: {licence: MIT}}
  - {name: "r.example/mine:1", binaries: [portmap]}
"#,
        )
        .unwrap();
    recipe.settle(source);
    recipe
}

#[test]
fn from_modules_nothing_of_the_other_source_is_left() {
    let recipe = recipe(Source::Modules);
    assert!(recipe.binaries.iter().all(|c| c.official.is_empty()));
    assert!(recipe.containers.iter().all(|c| c.official.is_none()));
    assert_eq!(recipe.binaries[0].build.len(), 4);
    let text = serde_json::to_string(&recipe.containers).unwrap();
    assert!(!text.contains("official"), "it would be hashed: {text}");
}

#[test]
fn from_releases_only_what_is_needed_is_fetched_and_the_rest_is_built() {
    let recipe = recipe(Source::Official);
    let parts: Vec<(&str, &str, Vec<&String>, bool)> = recipe
        .binaries
        .iter()
        .map(|c| {
            (
                c.name.as_str(),
                c.version.as_str(),
                c.build.keys().collect(),
                c.official.is_empty(),
            )
        })
        .collect();
    let [bridge, flannel, own, portmap] =
        ["bridge", "flannel", "own", "portmap"].map(str::to_owned);
    assert_eq!(
        parts,
        [
            ("cni", "v1.2", vec![&bridge, &portmap], false),
            ("cni/flannel", "v9", vec![&flannel], false),
            ("cni/own", "v1.2", vec![&own], true),
        ],
        "the image brings the API server"
    );
    let api = &recipe.containers[0];
    assert!(api.binaries.is_empty() && api.entrypoint.is_empty());
    assert_eq!(recipe.containers[1].binaries, [portmap]);
    let addresses = addresses(&recipe);
    let all: Vec<&str> = addresses.iter().map(String::as_str).collect();
    assert_eq!(
        all,
        [
            "https://h.example/v1.2/cni-1.2.tgz",
            "https://h.example/v1.2/cni-1.2.tgz.sha256",
            "oci://r.example/api:1",
            "oci://r.example/flannel:v9",
        ]
    );
    let hosts: Vec<_> = hosts(&addresses).into_iter().collect();
    assert_eq!(
        hosts,
        [
            ("h.example".to_owned(), false),
            ("r.example".to_owned(), true)
        ]
    );
}

#[test]
fn addresses_are_filled_in() {
    let recipe = recipe(Source::Official);
    let release = recipe.binaries[0].official[0].locate("bridge", "v1.2");
    assert_eq!(release.url, "https://h.example/v1.2/cni-1.2.tgz");
    assert_eq!(
        release.checksum,
        "https://h.example/v1.2/cni-1.2.tgz.sha256"
    );
    assert_eq!(release.member.as_deref(), Some("./bridge"));
}

#[test]
fn bases_stand_in_the_place_of_hosts() {
    let sources: Sources = serde_json::from_value(serde_json::json!({
        "from": "auto",
        "bases": {"github.com": "https://m.example/gh/", "*": "file:///srv/official"},
    }))
    .unwrap();
    assert_eq!(sources.from, Choice::Auto);
    let web = Base::Web("https://m.example/gh".to_owned());
    assert_eq!(sources.bases.get("github.com"), Some(web));
    let folder = Base::Folder("/srv/official/dl.k8s.io".into());
    assert_eq!(sources.bases.get("dl.k8s.io"), Some(folder));
    assert_eq!(Bases::default().get("dl.k8s.io"), None);
    for wrong in ["srv/official", "ftp://x", ""] {
        assert!(wrong.parse::<Base>().is_err(), "{wrong:?}");
    }
    assert!("=/srv".parse::<Named>().is_err());
    let said = sources.bases.named().last().unwrap().to_string();
    assert_eq!(said, "github.com=https://m.example/gh");
}

#[test]
fn auto_takes_what_can_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let (recipes, mirror) = (folder.path().join("images"), folder.path().join("mirror"));
    std::fs::create_dir_all(recipes.join("m")).unwrap();
    std::fs::write(recipes.join("m/go.mod"), "module m\n").unwrap();
    std::fs::write(
            recipes.join("k.yaml"),
            "name: k\nsummary: s\nsuite: bookworm\npackages: [linux-image-cloud-amd64]\n\
             machine: {vcpus: 1, memory_mib: 256, disk_mib: 1024}\n\
             sources:\n  modules: {place: here}\n  official: {place: there}\n\
             binaries:\n- {name: p, version: v1, licence: MIT, module: m, build: {p: .}, install: {p: /bin},\n\
             \x20 official: [{url: \"https://h.example/p\", checksum: \"{url}.sha256\"}]}\n\
             files: [{path: /etc/place, content: \"{{place}}\"}]\n",
        )
        .unwrap();
    let cache = Cache::at(folder.path().join("cache"));
    let mut sources = Sources {
        from: Choice::Auto,
        bases: Bases([(ALL.to_owned(), Base::Folder(mirror.clone()))].into()),
    };
    let chosen = |sources: &Sources| {
        let recipe = sources.recipe(&recipes, &Form::default().of("k", true).unwrap(), &cache);
        let recipe = recipe.unwrap();
        assert_eq!(
            recipe.binaries[0].official.is_empty(),
            recipe.source == Source::Modules
        );
        (recipe.source, recipe.files[0].content.clone())
    };
    let modules = (Source::Modules, "here".to_owned());
    let official = (Source::Official, "there".to_owned());
    assert_eq!(chosen(&sources), modules, "there is no such folder yet");
    std::fs::create_dir_all(mirror.join("h.example")).unwrap();
    assert_eq!(chosen(&sources), official);
    sources.from = Choice::Modules;
    assert_eq!(chosen(&sources), modules);
    std::fs::remove_dir_all(&mirror).unwrap();
    sources.from = Choice::Official;
    assert_eq!(chosen(&sources), official, "whether it is there or not");
}

/// The only program in a cluster's image without an official release: the project's own.
const OWN: &str = "ingress";

#[test]
fn every_recipe_of_the_project_can_be_fetched_as_a_whole() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../images"));
    for name in Recipe::names(folder) {
        let recipe = Recipe::load_for(folder, &name, Source::Official).unwrap();
        let mut built = recipe.binaries.iter().filter(|c| c.official.is_empty());
        assert!(
            built.all(|c| c.name == OWN),
            "{name} would need Go for others than our own program"
        );
        let all = addresses(&recipe);
        let unfilled = all.iter().find(|address| address.contains(['{', '}']));
        assert_eq!(unfilled, None, "{name}");
    }
    let recipe = Recipe::load_for(folder, "kubernetes-1.36", Source::Official).unwrap();
    let all = addresses(&recipe);
    let version = &recipe.binaries[0].version;
    for address in [
        format!("https://dl.k8s.io/release/{version}/bin/linux/amd64/kubelet.sha256"),
        format!("oci://registry.k8s.io/kube-apiserver:{version}"),
    ] {
        assert!(all.contains(&address), "{address} of {all:?}");
    }
    let count = |word: &str| all.iter().filter(|a| a.contains(word)).count();
    assert_eq!(
        count("kube-apiserver"),
        1,
        "nodes have it in its image alone"
    );
    assert_eq!(count("/runc."), 2);
}

/// Lays out a folder as described in docs/kubernetes.md, with scripts instead of programs.
fn lay_out(recipe: &Recipe, folder: &Path) {
    let place = |address: &str| {
        let path = folder.join(address.split_once("://").unwrap().1);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let script = |program: &str| format!("#!/bin/sh\necho {program}\n");
    let mut archives: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut sums = BTreeMap::new();
    for component in &recipe.binaries {
        for program in component.build.keys() {
            let release = component.official[0].locate(program, &component.version);
            match release.member {
                None => fs::write(place(&release.url), script(program)).unwrap(),
                Some(member) => {
                    let members = archives.entry(release.url.clone()).or_default();
                    members.push((member, script(program)));
                }
            }
            sums.insert(release.url, release.checksum);
        }
    }
    for (url, members) in archives {
        let inner = tempfile::tempdir().unwrap();
        for (member, content) in members {
            let path = inner.path().join(member);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let mut tar = Command::new("tar");
        tar.args(["-C", inner.path().to_str().unwrap()]);
        if let Some(image) = url.strip_prefix(IMAGE) {
            let out = tar.args(["-cf", "-", "."]).output().unwrap();
            let (repository, tag) = image.rsplit_once(':').unwrap();
            Image::of(String::from_utf8(out.stdout).unwrap()).layout(&folder.join(repository), tag);
        } else {
            tar.arg("-czf").arg(place(&url)).arg(".");
            assert!(tar.status().unwrap().success());
        }
    }
    for (url, list) in sums.iter().filter(|(_, list)| !list.is_empty()) {
        let sum = faultline_launcher::snapshot::checksum(&place(url)).unwrap();
        let text = if list.ends_with(".sha256") {
            sum
        } else {
            format!("{sum}  {}\n", fetch::file_of(url))
        };
        fs::write(place(list), text).unwrap();
    }
    for container in recipe.containers.iter().filter(|c| c.official.is_some()) {
        let (repository, tag) = container.name.rsplit_once(':').unwrap();
        Image::new().layout(&folder.join(repository), tag);
    }
}

#[test]
fn a_folder_has_all_of_a_cluster() {
    let recipes = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../images"));
    let dir = tempfile::tempdir().unwrap();
    let (cache, mirror) = (
        Cache::at(dir.path().join("cache")),
        dir.path().join("mirror"),
    );
    let sources = Sources {
        from: Choice::Official,
        bases: Bases([(ALL.to_owned(), Base::Folder(mirror.clone()))].into()),
    };
    let recipe = sources.recipe(
        recipes,
        &Form::default().of("kubernetes-1.36", true).unwrap(),
        &cache,
    );
    let mut recipe = recipe.unwrap();
    recipe.binaries.retain(|c| c.name != OWN);
    lay_out(&recipe, &mirror);
    let ignored = Progress::ignored();
    let programs = binaries::build(&recipe, &cache, &ignored).unwrap();
    for program in recipe.binaries.iter().flat_map(|c| c.install.keys()) {
        let out = Command::new(&programs.files[program]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), program);
    }
    recipe.containers.retain(|c| c.official.is_some());
    assert!(recipe.containers.len() > 8, "{:?}", recipe.containers);
    let keys = binaries::keys(&recipe).unwrap();
    let archives = containers::build(&recipe, &keys, &programs, &cache, &ignored).unwrap();
    assert!(archives.iter().all(|archive| archive.exists()));
}
