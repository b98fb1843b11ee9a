//! A lab's own container images, each described by a file `images/<name>.yaml`.

use faultline_domain::container::ContainerImage;

use crate::LabFolder;

/// Parses an image's description. `file` returns the content of the lab's other files.
pub(crate) fn parse(
    yaml: &str,
    file: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<ContainerImage, String> {
    let mut image: ContainerImage = serde_saphyr::from_str(yaml).map_err(|e| e.to_string())?;
    for place in &mut image.files {
        if let Some(source) = place.source.take() {
            let content = file(&source)
                .ok_or_else(|| format!("{source} is missing; it lies under images/"))?;
            place.content =
                String::from_utf8(content).map_err(|_| format!("{source} is not UTF-8"))?;
        }
    }
    image.validate().map(|()| image)
}

impl LabFolder {
    /// Parses the image that one of the lab's files describes.
    pub fn image(&self, file: &str) -> Result<ContainerImage, String> {
        let yaml = self.script(file).ok_or("the file is missing")?;
        parse(&String::from_utf8_lossy(yaml), |source| {
            self.script(source).map(<[u8]>::to_vec)
        })
    }

    /// Returns the images that the lab loads, each with its file.
    pub fn images(&self) -> impl Iterator<Item = (&str, Result<ContainerImage, String>)> {
        let loaded = self.lab.setup.iter().filter_map(|s| s.load.as_deref());
        loaded.map(|file| (file, self.image(file)))
    }
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
