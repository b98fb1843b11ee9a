//! The process `prepare`: programs and container images, from the stages that also make images of machines.
//!
//! What it builds is in the cache under the same keys, so a machine that has built the image of a cluster has nearly
//! everything. Added are two programs (the CNI plugin `ptp`, and the enforcer of network policies) and the folder of a
//! containerd that has imported the container images, which each node's is filled from.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use faultline_domain::progress::Progress;
use faultline_image::{
    Error, Result,
    binaries::{self, Programs},
    cache::{Cache, Key},
    containers,
    recipe::{Component, Recipe},
};
use serde::{Deserialize, Serialize};

use crate::{process, state::State};

/// The programs that run as processes of a member, or are run by these. Their container images are not needed.
const PROCESSES: [&str; 17] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubeadm",
    "kubectl",
    "etcd",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "host-local",
    "loopback",
    "portmap",
    "flanneld",
    "kube-network-policies",
];
/// The stage that the folder of a containerd with the images belongs to, so that pruning the cache finds it.
const STAGE: &str = "containers";
/// Part of the key. Raised when the way that the folder is made changes.
const GENERATION: &str = "1";

/// The result: what members are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prepared {
    /// The release of Kubernetes, such as `v1.36.3`.
    pub(crate) release: String,
    /// The tag of CoreDNS' image.
    pub(crate) coredns: String,
    /// The image of a pod's sandbox.
    pub(crate) pause: String,
    /// The file of each program.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// The folder of a containerd that has imported the images.
    pub(crate) store: PathBuf,
    /// The container images that nodes have.
    pub(crate) images: Vec<String>,
    /// Manifests of the recipe, by file name.
    pub(crate) manifests: BTreeMap<String, String>,
}

const RESULT: &str = "prepared.json";

impl Prepared {
    pub(crate) fn load(folder: &Path) -> io::Result<Self> {
        process::read(&folder.join(RESULT))
    }
}

/// Runs the job and writes its result into the cluster's folder. Progress goes to standard error as JSON lines.
pub(crate) fn run(folder: &Path) -> io::Result<()> {
    process::wait_for_group()?;
    let state = State::load(folder)?;
    let progress = Progress::new(|event| {
        if let Ok(line) = serde_json::to_string(&event) {
            eprintln!("{line}");
        }
    });
    let prepared = prepare(&state, &Cache::of_user(), &progress).map_err(io::Error::other)?;
    process::write(&folder.join(RESULT), &prepared)
}

fn prepare(state: &State, cache: &Cache, progress: &Progress) -> Result<Prepared> {
    let recipe = reduce(Recipe::load(
        &state.recipes,
        &format!("kubernetes-{}", state.kubernetes),
    )?);
    let programs = binaries::build(&recipe, cache, progress)?;
    let keys = binaries::keys(&recipe)?;
    let archives = containers::build(&recipe, &keys, &programs, cache, progress)?;
    let store = store(&recipe, &keys, &archives, &programs, cache, progress)?;
    let image = |part: &str| {
        let names = recipe.containers.iter().map(|c| &c.name);
        names
            .clone()
            .find(|n| n.contains(part))
            .cloned()
            .ok_or_else(|| Error::Stage {
                stage: STAGE,
                reason: format!("the recipe {} has no image {part}", recipe.name),
            })
    };
    let coredns = image("/coredns:")?;
    let kubernetes = recipe.binaries.iter().find(|c| c.name == "kubernetes");
    Ok(Prepared {
        release: kubernetes.map(|c| c.version.clone()).unwrap_or_default(),
        coredns: coredns.rsplit(':').next().unwrap_or_default().to_owned(),
        pause: image("/pause:")?,
        programs: programs.files,
        store,
        images: recipe.containers.iter().map(|c| c.name.clone()).collect(),
        manifests: recipe
            .files
            .iter()
            .filter_map(|file| {
                let name = file.path.strip_prefix("/usr/lib/faultline/kubernetes/")?;
                Some((name.to_owned(), file.content.clone()))
            })
            .collect(),
    })
}

/// Reduces the recipe of a cluster's machines to what a host cluster needs, and adds what it needs besides.
fn reduce(mut recipe: Recipe) -> Recipe {
    recipe
        .containers
        .retain(|c| !c.binaries.iter().any(|b| PROCESSES.contains(&b.as_str())));
    let needed: BTreeSet<&str> = PROCESSES
        .into_iter()
        .chain(
            recipe
                .containers
                .iter()
                .flat_map(|c| &c.binaries)
                .map(String::as_str),
        )
        .collect();
    recipe.binaries.retain(|c| {
        c.build
            .keys()
            .any(|program| needed.contains(program.as_str()))
    });
    let own = |name: &str, version: &str, module: &str, package: &str| Component {
        name: name.to_owned(),
        version: version.to_owned(),
        licence: "Apache-2.0".to_owned(),
        module: module.to_owned(),
        build: BTreeMap::from([(name.to_owned(), package.to_owned())]),
        ldflags: "-s -w".to_owned(),
        tags: Vec::new(),
        cgo: false,
        install: BTreeMap::new(),
        versions: BTreeMap::new(),
        official: Vec::new(),
    };
    recipe.binaries.extend([
        own(
            "network-policies",
            "v0.8.0",
            "modules/network-policies",
            ".",
        ),
        own(
            "ptp",
            "v1.9.1",
            "modules/cni-plugins",
            "github.com/containernetworking/plugins/plugins/main/ptp",
        ),
    ]);
    recipe
}

fn store(
    recipe: &Recipe,
    keys: &BTreeMap<String, String>,
    archives: &[PathBuf],
    programs: &Programs,
    cache: &Cache,
    progress: &Progress,
) -> Result<PathBuf> {
    let failed = |e: io::Error| Error::Stage {
        stage: STAGE,
        reason: e.to_string(),
    };
    let containerd = keys.get("containerd").map_or("", String::as_str);
    let mut key = Key::default()
        .with("host-cluster", GENERATION)
        .with("containerd", containerd);
    for image in containers::keys(recipe, keys) {
        key = key.with("image", image);
    }
    let key = key.finish();
    let stage = progress.stage("store", "Importing the container images");
    let _lock = cache.lock(STAGE, &key).map_err(failed)?;
    let folder = if let Some(folder) = cache.get(STAGE, &key) {
        stage.cached();
        folder
    } else {
        let draft = cache.draft(STAGE, &key).map_err(failed)?;
        containers::import(&draft.join("root"), archives, programs, &draft.join("log"))?;
        let folder = cache.keep(&draft, STAGE, &key).map_err(failed)?;
        stage.done();
        folder
    };
    Ok(folder.join("root/var/lib/containerd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images")
    }

    #[test]
    fn everything_but_two_programs_is_built_for_machines_too() {
        let whole = Recipe::load(&recipes(), "kubernetes-1.36").unwrap();
        let reduced = reduce(whole.clone());
        let own: Vec<_> = reduced
            .binaries
            .iter()
            .filter(|c| !whole.binaries.contains(c))
            .map(|c| c.name.as_str())
            .collect();
        assert_eq!(own, ["network-policies", "ptp"]);
        assert!(
            reduced
                .containers
                .iter()
                .all(|c| whole.containers.contains(c))
        );
        let has = |part: &str| reduced.containers.iter().any(|c| c.name.contains(part));
        for image in [
            "/coredns:",
            "/pause:",
            "/metrics-server:",
            "/local-path-provisioner:",
            "/busybox:",
            "/nginx:",
        ] {
            assert!(has(image), "{image}");
        }
        for image in [
            "/kube-apiserver:",
            "/etcd:",
            "/flannel:",
            "/kube-network-policies:",
        ] {
            assert!(!has(image), "{image}");
        }
    }
}
