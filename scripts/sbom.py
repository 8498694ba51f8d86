"""Brings the output of cargo-cyclonedx into the form that scripts/sbom.sh promises, and checks it.

usage: sbom.py write MADE FOLDER WRITTEN    sbom.py check WRITTEN LOCK
Standard input lists the crates that cargo builds in: a name and a version in each line.
"""

import json
import re
import sys

# Prefix of the ids of our own crates.
OURS = "path+file:///source"


def write(built, made, folder, written):
    # Our own crates' ids are paths of this machine.
    bom = json.loads(open(made).read().replace("path+file://" + folder, OURS))
    # Drop crates that only the features of tests need: cargo-cyclonedx lists them too.
    bom["components"] = [
        component for component in bom["components"] if key(component) in built
    ]
    known = {component["bom-ref"] for component in bom["components"]}
    known.add(bom["metadata"]["component"]["bom-ref"])
    bom["dependencies"] = [
        dict(entry, dependsOn=[ref for ref in entry.get("dependsOn", []) if ref in known])
        for entry in bom["dependencies"]
        if entry["ref"] in known
    ]
    with open(written, "w") as out:
        json.dump(bom, out, indent=2, ensure_ascii=False, sort_keys=True)
        out.write("\n")


def key(component):
    return component["name"], component["version"]


def check(built, written, lock_path):
    lock = {}
    for block in open(lock_path).read().split("[[package]]"):
        found = dict(re.findall(r'^(name|version|checksum) = "(.*)"$', block, re.M))
        if "checksum" in found:
            lock[found["name"], found["version"]] = found["checksum"]
    # Our own crates have no digest.
    built &= lock.keys()
    named = {key(component): component for component in json.load(open(written))["components"] if not component["bom-ref"].startswith(OURS)}
    missing, more = sorted(built - named.keys()), sorted(named.keys() - built)
    if missing or more or len(built) < 20:
        sys.exit(f"error: {written} lacks {missing} and has {more} too many, of {len(built)}")
    for package, component in named.items():
        digests = [hash["content"] for hash in component.get("hashes", [])]
        if digests != [lock[package]]:
            sys.exit(f"error: {written}: the digest of {package} is not that of {lock_path}")
        if not component.get("licenses"):
            sys.exit(f"error: {written} names no licence of {package}")
    print(f"{len(named)} crates, as {lock_path} has them")


packages = {tuple(line.split()) for line in sys.stdin}
{"write": write, "check": check}[sys.argv[1]](packages, *sys.argv[2:])
