use super::*;
use crate::{
    cache::Cache,
    sources::{
        Bases,
        server::{Answer, Image, Server, digest},
    },
};

const NAME: &str = "r.example/group/tool:v1";

fn pulled(base: &str) -> (Result<Pulled>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let bases = Bases([("r.example".to_owned(), base.parse().unwrap())].into());
    let cache = Cache::at(folder.path().join("cache"));
    let layout = folder.path().join("layout");
    let got = pull(
        &Fetcher::new(&bases, &cache),
        NAME,
        &[NAME, "r.example/other:v2"],
        &layout,
        folder.path(),
        &|_, _| {},
    );
    (got, folder)
}

fn is_whole(image: &Image, got: &Result<Pulled>, folder: &Path) {
    let got = got.as_ref().unwrap();
    assert_eq!(format!("sha256:{}", got.digest), digest(&image.manifest));
    assert_eq!(fs::read_to_string(&got.layers[0]).unwrap(), image.layer);
    let layout = folder.join("layout");
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let names = index["manifests"].as_array().unwrap();
    assert_eq!(names[0]["annotations"][FULL_NAME], NAME);
    assert_eq!(names[1]["annotations"][FULL_NAME], "r.example/other:v2");
    let blobs = layout.join("blobs/sha256");
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 3);
    assert_eq!(
        fs::read_to_string(blobs.join(&got.digest)).unwrap(),
        image.manifest
    );
}

#[test]
fn names_are_taken_apart() {
    let name = Reference::parse(NAME).unwrap();
    assert_eq!(
        (
            name.registry.as_str(),
            name.repository.as_str(),
            name.tag.as_str()
        ),
        ("r.example", "group/tool", "v1")
    );
    for wrong in [
        "pause:3",
        "r.example/pause",
        "r.example/../x:1",
        "r.example/a//b:1",
        "r.example/x:",
        "library/x:1",
    ] {
        assert!(Reference::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_image_is_pulled_from_its_index_to_its_layers() {
    let image = Image::new();
    let server = image.server("/v2/group/tool");
    let (got, folder) = pulled(&server.url(""));
    is_whole(&image, &got, folder.path());
    assert_eq!(
        got.unwrap().url,
        format!(
            "https://r.example/v2/group/tool/manifests/{}",
            digest(&image.manifest)
        )
    );
}

#[test]
fn a_caching_registry_has_its_project_before_the_name() {
    let image = Image::new();
    let server = image.server("/v2/project/group/tool");
    let (got, folder) = pulled(&server.url("/project/"));
    is_whole(&image, &got, folder.path());
}

#[test]
fn a_registry_that_wants_a_token_gets_one() {
    let image = Image::new();
    let server = Server::start([]);
    let challenge = format!(
        "Bearer realm=\"{}\",service=\"r.example\",scope=\"repository:group/tool:pull\"",
        server.url("/token")
    );
    for (path, body) in image.paths("/v2/group/tool") {
        server.serve(&path, Answer::body(body).for_bearer("t0k", &challenge));
    }
    let asked = "/token?service=r.example&scope=repository:group/tool:pull";
    server.serve(asked, Answer::body(r#"{"token": "t0k"}"#));
    let (got, folder) = pulled(&server.url(""));
    is_whole(&image, &got, folder.path());
    assert_eq!(server.asked(asked), 1, "one for all parts");
    server.serve(asked, Answer::body(r#"{"access_token": "other"}"#));
    let error = pulled(&server.url("")).0.unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 401, .. }),
        "{error}"
    );
}

#[test]
fn a_layer_that_breaks_off_is_continued() {
    let image = Image::new();
    let server = image.server("/v2/group/tool");
    let path = format!("/v2/group/tool/blobs/{}", digest(&image.layer));
    server.serve(&path, Answer::body(&image.layer).cut_after(3).once());
    let (got, folder) = pulled(&server.url(""));
    is_whole(&image, &got, folder.path());
    assert_eq!(server.ranges(&path), [None, Some("bytes=3-".to_owned())]);
}

#[test]
fn every_part_is_compared_with_its_digest() {
    let image = Image::new();
    for (number, (path, body)) in image.paths("/v2/group/tool").into_iter().enumerate() {
        let server = image.server("/v2/group/tool");
        let tampered = format!("{body} ");
        let answer = Answer::body(&tampered);
        // For a tag, the registry's answer has the digest.
        let answer = answer.header("Docker-Content-Digest", digest(&body));
        server.serve(&path, answer);
        let (got, folder) = pulled(&server.url(""));
        let text = got.unwrap_err().to_string();
        assert!(text.contains(&digest(&tampered)[7..]), "{number}: {text}");
        assert!(text.contains(&digest(&body)[7..]), "{number}: {text}");
        assert!(!folder.path().join("layout/index.json").exists());
    }
}

#[test]
fn a_folder_has_layouts_or_archives_of_them() {
    let image = Image::new();
    let mirror = tempfile::tempdir().unwrap();
    let base = format!("file://{}", mirror.path().display());
    let place = mirror.path().join("group/tool");
    let text = pulled(&base).0.unwrap_err().to_string();
    assert!(text.contains("group/tool/index.json is missing"), "{text}");
    image.layout(&place, "v1");
    let (got, folder) = pulled(&base);
    is_whole(&image, &got, folder.path());

    let archive = mirror.path().join("v1.tar");
    let made = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&place)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    fs::remove_dir_all(&place).unwrap();
    fs::create_dir_all(&place).unwrap();
    fs::rename(archive, place.join("v1.tar")).unwrap();
    let (got, folder) = pulled(&base);
    is_whole(&image, &got, folder.path());
}

#[test]
fn a_folder_is_not_believed_either() {
    let image = Image::new();
    let mirror = tempfile::tempdir().unwrap();
    let place = mirror.path().join("group/tool");
    image.layout(&place, "v1");
    let base = mirror.path().display().to_string();
    fs::write(
        place.join("blobs/sha256").join(&digest(&image.layer)[7..]),
        "evil",
    )
    .unwrap();
    let error = pulled(&base).0.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    let index = fs::read_to_string(place.join("index.json")).unwrap();
    fs::write(place.join("index.json"), index.replace("\"v1\"", "\"v2\"")).unwrap();
    let text = pulled(&base).0.unwrap_err().to_string();
    assert!(text.contains("has no v1"), "{text}");
}

#[test]
fn an_image_for_another_processor_is_refused() {
    let mut image = Image::new();
    let server = image.server("/v2/group/tool");
    let index = image.index.replace("amd64", "riscv64");
    server.serve("/v2/group/tool/manifests/v1", Answer::body(index));
    let text = pulled(&server.url("")).0.unwrap_err().to_string();
    assert!(text.contains("linux/amd64"), "{text}");
    // Without an index, the platform is in the configuration.
    image.config = image.config.replace("amd64", "arm64");
    image.manifest = image
        .manifest
        .replace(&digest(&Image::new().config), &digest(&image.config));
    image.index.clone_from(&image.manifest);
    let server = image.server("/v2/group/tool");
    let text = pulled(&server.url("")).0.unwrap_err().to_string();
    assert!(text.contains("linux/amd64"), "{text}");
}
