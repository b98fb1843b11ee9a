//! Container images of a lab's own: `images/<name>.yaml` in its folder says what one is made of, in the words of the
//! containers of an image recipe. The host makes it, once, and each node's containerd is given it.

use std::{path::PathBuf, time::Duration};

use faultline_domain::{EnvironmentId, NodeName};
use faultline_guest::client;
use faultline_image::{cache::Cache, containers, recipe::Container};
use faultline_provider::{Provider, Target};

use crate::{
    LabFolder,
    check::chain,
    script::{self, Run},
    text,
};

/// Where a node has the archive until it is imported.
const ARCHIVE: &str = "/var/tmp/faultline-image.tar";
const IMPORT: &[u8] = b"#!/bin/bash\n\
    ctr --namespace k8s.io images import /var/tmp/faultline-image.tar; code=$?\n\
    rm -f /var/tmp/faultline-image.tar; exit $code\n";

/// Reads the image that a file of the lab describes, `file` being what gives the content of its other files.
pub(crate) fn parse(
    yaml: &str,
    file: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<Container, String> {
    let mut image: Container = serde_saphyr::from_str(yaml).map_err(|e| e.to_string())?;
    if !image.binaries.is_empty() || image.official.is_some() {
        return Err("binaries and official are for image recipes".to_owned());
    }
    // They would run on the host, and a lab's author is let into guests alone.
    if !image.commands.is_empty() {
        return Err(
            "commands are for image recipes; a lab's image is made of packages and files"
                .to_owned(),
        );
    }
    if image.packages.is_empty() {
        return Err("packages names no Debian package to make it of".to_owned());
    }
    for place in &mut image.files {
        if let Some(source) = place.source.take() {
            let content = file(&source)
                .ok_or_else(|| format!("{source} is missing; it lies under images/"))?;
            place.content =
                String::from_utf8(content).map_err(|_| format!("{source} is not UTF-8"))?;
        }
    }
    image.check().map(|()| image)
}

/// Makes the images that a lab loads, so that its first start need not. Those whose files hold a variable differ from
/// environment to environment; they are made at the start.
pub async fn prepare(folder: &LabFolder) -> Result<(), String> {
    for name in folder.lab.setup.iter().filter_map(|s| s.load.as_ref()) {
        made(folder, name)
            .await
            .map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// The image's archive, made if it isn't there.
async fn made(folder: &LabFolder, name: &str) -> Result<PathBuf, String> {
    let yaml = folder.script(name).ok_or("the file is missing")?;
    let image = parse(&String::from_utf8_lossy(yaml), |source| {
        folder.script(source).map(<[u8]>::to_vec)
    })?;
    tokio::task::spawn_blocking(move || {
        containers::single(&image, &Cache::of_user()).map_err(|e| chain(&e))
    })
    .await
    .map_err(|e| e.to_string())?
}

/// Makes the image and gives it to these nodes, all at the same time.
pub(crate) async fn load(
    provider: &dyn Provider,
    env: &EnvironmentId,
    folder: &LabFolder,
    name: &str,
    nodes: &[NodeName],
    within: Duration,
) -> Result<(), String> {
    let archive = made(folder, name).await?;
    let archive = tokio::fs::read(archive).await.map_err(|e| e.to_string())?;
    let each = nodes.iter().map(|node| {
        let archive = &archive;
        async move {
            let stream = provider
                .open(env, node, Target::Guest)
                .await
                .map_err(|e| chain(&e))?;
            client::write_file(stream, ARCHIVE, 0o600, archive)
                .await
                .map_err(|e| format!("{node}: {}", chain(&e)))?;
            let how = Run {
                trusted: false,
                timeout: within,
            };
            let ran = script::run(provider, env, node, IMPORT, &how)
                .await
                .map_err(|e| chain(&e))?;
            if ran.code == 0 {
                return Ok(());
            }
            let said = text::clean_tail(&ran.tail, 300);
            Err(format!("{node} did not take it: {said}"))
        }
    });
    futures::future::try_join_all(each).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = "name: lab.example/shop:2.0\npackages: [python3-flask]\nfiles: [{path: /app/app.py, source: images/app.py}]\nentrypoint: [/usr/bin/python3, /app/app.py]\n";

    #[test]
    fn an_image_takes_the_lab_s_files() {
        let image = parse(SHOP, |name| {
            (name == "images/app.py").then(|| b"print(1)".to_vec())
        })
        .unwrap();
        assert_eq!(image.name, "lab.example/shop:2.0");
        assert_eq!(image.files[0].content, "print(1)");
    }

    #[test]
    fn what_is_no_image_is_told() {
        let of = |yaml: &str| parse(yaml, |_| None).unwrap_err();
        assert!(of(SHOP).contains("images/app.py is missing"));
        assert!(of("name: x/y:1\n").contains("packages"));
        assert!(of("name: x/y:1\npackages: [a]\nbinaries: [etcd]\n").contains("binaries"));
        assert!(of("name: x/y:1\npackages: [bash]\ncommands: [\"true\"]\n").contains("commands"));
        assert!(of("name: y\npackages: [busybox-static]\n").contains("name"));
        assert!(of("name: x/y:1\npackages: [\"a b\"]\n").contains("a b"));
        assert!(of("colour: red").contains("colour"));
    }
}
