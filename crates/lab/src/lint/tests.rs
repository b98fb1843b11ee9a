use std::{fs, path::Path};

use crate::{Catalogue, LabFolder, Severity, scaffold};

fn fresh() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    scaffold::create(dir.path(), &"status-page".parse().unwrap()).unwrap();
    let folder = dir.path().join("status-page");
    (dir, folder)
}

/// Returns the rendered findings, without the folder.
fn findings(folder: &Path) -> String {
    LabFolder::load(folder)
        .diagnostics
        .iter()
        .map(|d| d.render(""))
        .collect()
}

fn edit(folder: &Path, from: &str, to: &str) {
    let path = folder.join("lab.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_new_lab_is_clean() {
    let (_dir, folder) = fresh();
    assert_eq!(findings(&folder), "");
    let lab = LabFolder::load(&folder).folder.unwrap();
    assert_eq!(lab.slug.as_str(), "status-page");
    assert_eq!(lab.hash.len(), 64);
}

#[test]
fn a_misspelt_field_is_pointed_at() {
    let (_dir, folder) = fresh();
    edit(&folder, "minutes:", "minuets:");
    let found = findings(&folder);
    assert!(found.contains("lab.yaml:6:1"), "{found}");
    assert!(found.contains("minuets: 10\n  | ^"), "{found}");
    assert!(found.contains("unknown field"), "{found}");
}

#[test]
fn what_the_parser_says_is_said_in_an_authors_words() {
    for (from, to, said) in [
        (
            "minutes: 10",
            "minutes: 10\nminutes: 11",
            "`minutes` is given twice",
        ),
        (
            "title:",
            "# title:",
            "`title` is missing among these fields",
        ),
        (
            "level: beginner",
            "level: easy",
            "`easy` is none of: beginner, intermediate, hard",
        ),
        (
            "title: The",
            "title: \"The",
            "a quote further up may not be closed",
        ),
        (
            "minutes: 10",
            "minutes: [10]",
            "a whole number belongs here",
        ),
    ] {
        let (_dir, folder) = fresh();
        edit(&folder, from, to);
        let found = findings(&folder);
        assert!(found.contains(said), "{to}: {found}");
    }
}

#[test]
fn a_value_out_of_bounds_is_pointed_at() {
    let (_dir, folder) = fresh();
    edit(&folder, "minutes: 10", "minutes: 1000");
    let found = findings(&folder);
    assert!(found.contains("lab.yaml:6:10"), "{found}");
}

#[test]
fn hints_nodes_names_and_patterns_are_checked() {
    let (_dir, folder) = fresh();
    edit(&folder, "hint: 2", "hint: 4");
    edit(&folder, "body: all systems", "body: 'all ('");
    edit(
        &folder,
        "name: page-is-readable",
        "name: page-answers\n    node: node2",
    );
    let found = findings(&folder);
    for expected in [
        "there is no hint 4",
        "lab.yaml:15:11",
        "not a regular expression: unclosed group",
        "two checks are called page-answers",
        "the lab has no node node2",
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}

#[test]
fn scripts_are_checked() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, folder) = fresh();
    fs::write(
        folder.join("setup/break.sh"),
        "#!/bin/bash\nif true; then\n",
    )
    .unwrap();
    fs::set_permissions(
        folder.join("setup/break.sh"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    fs::create_dir(folder.join("checks")).unwrap();
    fs::write(folder.join("checks/spare.sh"), "echo hello\n").unwrap();
    fs::remove_file(folder.join("solution.sh")).unwrap();
    fs::write(folder.join("README.md"), "No title\n").unwrap();
    let found = findings(&folder);
    for expected in [
        "setup/break.sh:",
        "syntax error",
        "is not executable",
        "does not name its interpreter",
        "nothing in lab.yaml uses this file",
        "solution.sh is missing",
        "does not begin with a title",
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
    assert_eq!(found.matches("solution.sh is missing").count(), 1);
    edit(&folder, "setup/break.sh", "setup/brake.sh");
    assert!(findings(&folder).contains("setup/brake.sh is named here and does not exist"));
}

#[test]
fn links_large_files_and_folders_in_folders_are_refused() {
    let (_dir, folder) = fresh();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("setup/passwd")).unwrap();
    fs::create_dir_all(folder.join("setup/deep")).unwrap();
    fs::write(folder.join("big"), vec![b'x'; 300 * 1024]).unwrap();
    let found = findings(&folder);
    for expected in [
        "is a symbolic link",
        "is a folder in a folder",
        "is larger than 256 KiB",
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}

#[test]
fn malformed_yaml_of_every_kind_is_a_diagnostic() {
    let (_dir, folder) = fresh();
    for bad in [
        "",
        "\u{0}",
        "[",
        "a: &a [*a]",
        "title: [",
        "- 1\n- 2",
        "title: 1\ntitle: 2",
        "&a [*a,*a]",
        "\t",
        "{{{{{{",
        "--- \n---\n",
    ] {
        fs::write(folder.join("lab.yaml"), bad).unwrap();
        let loaded = LabFolder::load(&folder);
        assert!(loaded.folder.is_none(), "{bad:?}");
        assert!(
            loaded
                .diagnostics
                .iter()
                .any(|d| d.severity == Severity::Error),
            "{bad:?}"
        );
    }
    fs::write(folder.join("lab.yaml"), b"title: \xff").unwrap();
    assert!(findings(&folder).contains("not UTF-8 at byte 7"));
}

#[test]
fn a_broken_lab_takes_nobody_down_and_stays_as_it_was() {
    let (dir, folder) = fresh();
    scaffold::create(dir.path(), &"other".parse().unwrap()).unwrap();
    let first = Catalogue::load(dir.path());
    assert_eq!((first.labs().len(), first.broken().len()), (2, 0));

    edit(&folder, "minutes: 10", "minutes: ten");
    let second = first.reload();
    assert_eq!((second.labs().len(), second.broken().len()), (2, 1));
    assert_eq!(
        second
            .get(&"status-page".parse().unwrap())
            .unwrap()
            .lab
            .minutes,
        10
    );
    assert!(second.broken()[0].render().contains("lab.yaml:6:10"));
    assert_eq!(Catalogue::load(dir.path()).labs().len(), 1);

    fs::remove_dir_all(&folder).unwrap();
    let third = second.reload();
    assert_eq!((third.labs().len(), third.broken().len()), (1, 0));

    let lost = Catalogue::load(&dir.path().join("nowhere"));
    assert_eq!((lost.labs().len(), lost.broken().len()), (0, 1));
}

#[test]
fn every_lab_is_the_same_from_its_content() {
    let labs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../labs");
    let catalogue = Catalogue::load(&labs);
    assert!(catalogue.labs().len() > 20);
    for lab in catalogue.labs() {
        let again = LabFolder::restore(&lab.slug, &lab.hash, &lab.content()).unwrap();
        assert_eq!(again.content(), lab.content());
        assert!(again.wrong.is_empty());
        let (again, lab) = (again.of("seed"), lab.of("seed"));
        assert_eq!(
            serde_json::to_value(&again.lab).unwrap(),
            serde_json::to_value(&lab.lab).unwrap()
        );
        assert_eq!((&again.readme, &again.scripts), (&lab.readme, &lab.scripts));
        assert_eq!(again.solution_script, lab.solution_script);
    }
    let slug = "x-lab".parse().unwrap();
    assert!(LabFolder::restore(&slug, "abc", "{}").is_none());
}

#[test]
fn wrong_repairs_say_what_is_wrong_and_are_twelve_at_most() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, folder) = fresh();
    let put = |name: &str, text: &str| {
        let path = folder.join("wrong").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    put("silent.sh", "#!/bin/bash\ntrue\n");
    put("notes.txt", "nothing");
    let found = findings(&folder);
    assert!(found.contains("wrong/silent.sh:2:1"), "{found}");
    assert!(
        found.contains("does not say what is wrong with it"),
        "{found}"
    );
    assert!(found.contains("nothing reads this file"), "{found}");
    for n in 0..12 {
        put(&format!("w{n}.sh"), "#!/bin/bash\n# Too narrow.\ntrue\n");
    }
    assert!(findings(&folder).contains("wrong repairs, of at most 12"));
}

#[test]
fn wrong_repairs_are_neither_kept_nor_served_nor_a_part_of_what_a_proof_is_for() {
    let (_dir, folder) = fresh();
    let load = || LabFolder::load(&folder).folder.unwrap();
    let first = load();
    assert_eq!(first.wrong.len(), 1);
    let name = first.wrong.keys().next().unwrap();
    assert!(first.public(name).is_none() && first.script(name).is_none());
    let again = LabFolder::restore(&first.slug, &first.hash, &first.content()).unwrap();
    assert!(again.wrong.is_empty() && !first.content().contains("wrong/"));

    let script = "#!/bin/bash\n# Another.\ntrue\n";
    fs::write(folder.join(name), script).unwrap();
    let second = load();
    assert_ne!(first.hash, second.hash);
    assert_eq!(first.proof_hash, second.proof_hash);
}

#[test]
fn the_hash_covers_names_modes_and_contents() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, folder) = fresh();
    let hash = |folder: &Path| LabFolder::load(folder).folder.unwrap().hash;
    let first = hash(&folder);
    assert_eq!(first, hash(&folder));
    fs::write(folder.join("note.txt"), "").unwrap();
    let second = hash(&folder);
    assert_ne!(first, second);
    fs::set_permissions(folder.join("note.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(second, hash(&folder));
}

#[test]
fn the_labs_that_come_with_faultline_are_clean() {
    let labs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../labs"));
    let catalogue = Catalogue::load(labs);
    let broken: String = catalogue
        .broken()
        .iter()
        .map(crate::Broken::render)
        .collect();
    assert_eq!(broken, "");
    assert!(catalogue.labs().len() >= 5);
    for lab in catalogue.labs() {
        assert_eq!(findings(&lab.path), "", "{}", lab.slug);
    }
}

#[test]
fn a_node_that_setup_adds_may_be_named_after_it_and_five_are_the_most() {
    let (_dir, folder) = fresh();
    let step = "  - script: setup/break.sh\n";
    let named = "  - script: setup/break.sh\n    nodes: [node1, node2]\n";
    edit(&folder, step, &format!("  - add_node: true\n{named}"));
    assert_eq!(findings(&folder), "");
    edit(
        &folder,
        &format!("  - add_node: true\n{named}"),
        &format!("{named}  - add_node: true\n"),
    );
    let found = findings(&folder);
    assert!(found.contains("the lab has no node node2"), "{found}");
    edit(&folder, named, &"  - add_node: true\n".repeat(4));
    let found = findings(&folder);
    assert!(
        found.contains("1 nodes and 5 that setup adds are more than 5"),
        "{found}"
    );
    edit(&folder, "- add_node: true", "- add_node: false");
    let found = findings(&folder);
    assert!(
        found.contains("script, apply, load, wait and add_node"),
        "{found}"
    );
}

#[test]
fn what_of_a_text_is_not_shown_is_named_with_its_line() {
    let (_dir, folder) = fresh();
    let readme = "# T\n\n![a](https://x.example/a.png)\n\n[s](solution.sh) [n](#nowhere) [t](#there)\n\n## There\n\n\
        <form>\n<button>b</button>\n</form>\n\n![p](files/p.svg) ![q](files/q.bmp) [z](solution/z.svg)\n\n\
        ```mermaid\ngraph\n```\n\n<img src=\"../x.png\"> ![k](files/k.svg)\n";
    fs::write(folder.join("README.md"), readme).unwrap();
    for (name, content) in [
        ("files/q.bmp", ""),
        ("files/k.svg", "<svg/>"),
        ("files/left over.txt", ""),
        ("files/lost.txt", ""),
        ("solution/z.svg", "<svg/>"),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let found = findings(&folder);
    for said in [
        "https://x.example/a.png is not shown: pages load nothing from other hosts\n  --> README.md:3:1",
        "the link to solution.sh leads nowhere\n  --> README.md:5:1",
        "the link to #nowhere leads nowhere\n  --> README.md:5:1",
        "<form> is not shown\n  --> README.md:9:1",
        "<button> is not shown\n  --> README.md:10:1",
        "error: files/p.svg is named here and does not exist\n  --> README.md:13:1",
        "files/q.bmp is no picture that pages show\n  --> README.md:13:1",
        "error: solution/z.svg is named here and opens with the solution only\n  --> README.md:13:1",
        "a diagram of mermaid is shown as its source\n  --> README.md:15:1",
        "the picture ../x.png is not shown\n  --> README.md:19:1",
        "error: no text can name this file\n  --> files/left over.txt",
        "warning: no text names this file\n  --> files/lost.txt",
    ] {
        assert!(found.contains(said), "{said}\n\n{found}");
    }
    for good in ["the link to #there", "files/k.svg is", "nothing reads"] {
        assert!(!found.contains(good), "{good}\n\n{found}");
    }
}

#[test]
fn what_of_a_hint_is_not_shown_is_pointed_at() {
    let (_dir, folder) = fresh();
    let yaml = fs::read_to_string(folder.join("lab.yaml")).unwrap();
    fs::write(
        folder.join("lab.yaml"),
        format!("{yaml}  - text: See [the script](solution.sh).\n"),
    )
    .unwrap();
    let found = findings(&folder);
    assert!(
        found.contains("the link to solution.sh leads nowhere\n  --> lab.yaml:"),
        "{found}"
    );
}

#[test]
fn everything_that_is_not_as_the_schema_says_is_named_at_once() {
    let (_dir, folder) = fresh();
    for (from, to) in [
        ("summary:", "sumary:"),
        ("level: beginner", "level: easy"),
        ("minutes: 10", "minutes: ten"),
        ("name: page-answers", "name: [page-answers]"),
        ("hint: 2", "hint: two"),
        ("http:", "htpp:"),
        (
            "setup:\n",
            "needs: {nodes: -1, egress: some, lifetime_minutes: 5}\nsetup:\n",
        ),
    ] {
        edit(&folder, from, to);
    }
    let found = findings(&folder);
    let yaml = fs::read_to_string(folder.join("lab.yaml")).unwrap();
    let line = |part: &str| 1 + yaml.lines().position(|l| l.contains(part)).unwrap();
    for (part, said) in [
        (
            "title:",
            "`summary` is missing among these fields".to_owned(),
        ),
        (
            "sumary",
            "unknown field `sumary`, expected one of ".to_owned(),
        ),
        (
            "easy",
            "`easy` is none of: beginner, intermediate, hard".to_owned(),
        ),
        ("ten", "a whole number belongs here, 0 or more".to_owned()),
        ("[page-answers]", "a single value belongs here".to_owned()),
        ("two", "a whole number belongs here, 0 or more".to_owned()),
        ("htpp", "`htpp` is none of: script, tcp, http".to_owned()),
        ("egress", "a list belongs here".to_owned()),
        (
            "egress",
            "needs, lifetime_minutes: lower than 10".to_owned(),
        ),
        (
            "egress",
            "a whole number belongs here, 0 or more".to_owned(),
        ),
    ] {
        let at = format!("lab.yaml:{}:", line(part));
        let is = |d: &str| d.contains(&said) && d.contains(&at);
        assert!(found.split("error: ").any(is), "{said} {at}\n\n{found}");
    }
    assert_eq!(found.matches("error: ").count(), 10, "{found}");
}
