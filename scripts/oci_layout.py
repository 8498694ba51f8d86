"""Writes an OCI image layout, as one tar file, with a Wasm filter in it.

Istio's WasmPlugin and Envoy Gateway pull an image of one layer with the file plugin.wasm
in its root (the "compat" variant of the Wasm image specification). skopeo or crane copies
the layout (image-layout 1.0.0) into any registry. The same input gives the same bytes:
the image holds no time and no user, and its files have a fixed order.

usage: oci_layout.py WASM NAME VERSION REVISION OUTPUT.tar
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile


def tar_of(files):
    """A tar of these (name, bytes), owned by nobody, from 1970."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def described(media_type, content, **more):
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def layout(wasm, name, version, revision):
    """The files of the layout, in order."""
    layer_tar = tar_of([("plugin.wasm", wasm)])
    layer = gzip.compress(layer_tar, compresslevel=9, mtime=0)
    config = as_json({
        "architecture": "wasm",
        "os": "wasi",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer_tar)]},
        "history": [{"created_by": "scripts/oci_layout.py"}],
    })
    manifest = as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        "annotations": {
            "org.opencontainers.image.title": name,
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.revision": revision,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    })
    index = as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described(
            "application/vnd.oci.image.manifest.v1+json",
            manifest,
            annotations={"org.opencontainers.image.ref.name": version},
        )],
    })
    blobs = {digest_of(blob): blob for blob in (layer, config, manifest)}
    files = [("oci-layout", as_json({"imageLayoutVersion": "1.0.0"})), ("index.json", index)]
    for digest in sorted(blobs):
        files.append(("blobs/sha256/" + digest.split(":")[1], blobs[digest]))
    return files


def main(arguments):
    if len(arguments) != 5:
        sys.exit(__doc__)
    wasm_file, name, version, revision, output = arguments
    with open(wasm_file, "rb") as file:
        wasm = file.read()
    if wasm[:4] != b"\0asm":
        sys.exit(f"oci_layout.py: {wasm_file} is no Wasm module")
    with open(output, "wb") as file:
        file.write(tar_of(layout(wasm, name, version, revision)))


if __name__ == "__main__":
    main(sys.argv[1:])
