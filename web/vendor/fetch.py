#!/usr/bin/env python3
"""Fetches the vendored front-end files again from npm, by pinned version and integrity.

`vendor.json` says which package, which version, the archive's integrity, and which of its files are kept where,
with their SHA-256. A test (crates/server, `assets`) compares the committed files with it. To update: change the
version, run this with `--update`, look at the difference, commit.
"""

import base64
import hashlib
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANIFEST = pathlib.Path(__file__).with_name("vendor.json")


def main() -> None:
    update = "--update" in sys.argv[1:]
    manifest = json.loads(MANIFEST.read_text())
    for package in manifest["packages"]:
        spec = f"{package['name']}@{package['version']}"
        with tempfile.TemporaryDirectory() as folder:
            packed = subprocess.run(
                ["npm", "pack", "--json", spec], cwd=folder, check=True, capture_output=True, text=True
            )
            archive = pathlib.Path(folder, json.loads(packed.stdout)[0]["filename"])
            digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            integrity = f"sha512-{digest}"
            if update:
                package["integrity"] = integrity
            elif integrity != package["integrity"]:
                sys.exit(f"{spec}: the archive is {integrity}, pinned is {package['integrity']}")
            with tarfile.open(archive) as tar:
                for file in package["files"]:
                    content = tar.extractfile("package/" + file["from"]).read()
                    sha256 = hashlib.sha256(content).hexdigest()
                    if update:
                        file["sha256"] = sha256
                    elif sha256 != file["sha256"]:
                        sys.exit(f"{spec}: {file['from']} is {sha256}, pinned is {file['sha256']}")
                    target = ROOT / file["to"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
        print(spec)
    if update:
        MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")


main()
