#!/usr/bin/python3
# Some .netdev file makes the bridge, and the first .network file that matches it gives its address.
import fnmatch
import glob
import os


def read(path):
    sections = {}
    with open(path, errors="replace") as file:
        section = ""
        for line in file.read(65536).splitlines():
            line = line.strip()
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif "=" in line and line[0] not in "#;":
                key, value = line.split("=", 1)
                sections.setdefault(section, []).append((key.strip(), value.strip()))
    return sections


def values(sections, section, key):
    return [v for k, v in sections.get(section, []) if k == key]


files = {}
for folder in ("/usr/local/lib/systemd/network", "/etc/systemd/network"):
    for path in glob.glob(folder + "/*"):
        if os.path.isfile(path):
            files[os.path.basename(path)] = path

made = [
    name
    for name, path in files.items()
    if name.endswith(".netdev")
    for s in [read(path)]
    if "br-apps" in values(s, "NetDev", "Name") and "bridge" in values(s, "NetDev", "Kind")
]
if not made:
    print("No .netdev file makes a bridge br-apps.")
    raise SystemExit(1)
for name in sorted(n for n in files if n.endswith(".network")):
    s = read(files[name])
    patterns = " ".join(values(s, "Match", "Name")).split()
    if any(fnmatch.fnmatch("br-apps", p) for p in patterns):
        addresses = values(s, "Network", "Address") + values(s, "Address", "Address")
        if "10.44.0.1/24" in addresses:
            print(f"{made[0]} makes the bridge, {name} gives its address.")
            raise SystemExit(0)
        print(f"{name} is the first that matches br-apps, and it does not give it 10.44.0.1/24.")
        raise SystemExit(1)
print("No .network file matches br-apps.")
raise SystemExit(1)
