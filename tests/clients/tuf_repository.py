"""Metadata as the TUF project's own library (python-tuf) makes and signs it, for devices to read.

Usage: tuf_repository.py DIRECTORY
Writes 1.root.json to 3.root.json (two of three keys; then other keys; then a new timestamp key), and a set with two
delegated roles: `vision` (two of two keys, one of them ECDSA) for digits/*, `sound` for words/*, whose file is forged.
Each file stands under the name that it has on the board.
"""

import hashlib
import pathlib
import sys
from datetime import datetime, timedelta, timezone

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

NOW = datetime.now(timezone.utc).replace(microsecond=0)
FAR = NOW + timedelta(days=30)


def target(path, model, version):
    custom = {"selvedge": 1, "model": model, "version": version, "for": {"groups": ["shop"]}}
    digest = hashlib.sha256(path.encode()).hexdigest()
    return TargetFile(7, {"sha256": digest}, path, {"custom": custom})


def signed(role, signers):
    metadata = Metadata(role)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def meta(version, data):
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def main(directory):
    out = pathlib.Path(directory)
    key = CryptoSigner.generate_ed25519
    first, second = [key() for _ in range(3)], [key() for _ in range(3)]
    online = {name: key() for name in ("timestamp", "snapshot", "targets")}

    root = Root(version=1, expires=FAR, consistent_snapshot=True)
    for signer in first:
        root.add_key(signer.public_key, "root")
    root.roles["root"].threshold = 2
    for name, signer in online.items():
        root.add_key(signer.public_key, name)
    (out / "1.root.json").write_bytes(signed(root, first[:2]))

    root.version = 2
    for old, new in zip(first, second):
        root.revoke_key(old.public_key.keyid, "root")
        root.add_key(new.public_key, "root")
    (out / "2.root.json").write_bytes(signed(root, first[1:] + second[:2]))

    root.version = 3
    root.revoke_key(online["timestamp"].public_key.keyid, "timestamp")
    online["timestamp"] = key()
    root.add_key(online["timestamp"].public_key, "timestamp")
    (out / "3.root.json").write_bytes(signed(root, second[1:]))

    team, other, forger = [key(), CryptoSigner.generate_ecdsa()], key(), key()
    roles = {
        "vision": DelegatedRole("vision", [], 2, True, paths=["digits/*"]),
        "sound": DelegatedRole("sound", [], 1, True, paths=["words/*"]),
    }
    targets = Targets(version=4, expires=FAR)
    targets.delegations = Delegations({}, roles)
    for signer in team:
        targets.add_key(signer.public_key, "vision")
    targets.add_key(other.public_key, "sound")
    targets.targets["house/a"] = target("house/a", "house", 3)
    vision = Targets(version=9, expires=FAR)
    vision.targets["digits/a"] = target("digits/a", "digits", 5)
    vision.targets["words/a"] = target("words/a", "words", 8)
    sound = Targets(version=2, expires=FAR)
    sound.targets["words/a"] = target("words/a", "words", 6)

    files = {
        "targets.json": (4, signed(targets, [online["targets"]])),
        "vision.json": (9, signed(vision, team)),
        "sound.json": (2, signed(sound, [forger])),
    }
    snapshot = Snapshot(version=5, expires=FAR, meta={name: meta(*file) for name, file in files.items()})
    files["snapshot.json"] = (5, signed(snapshot, [online["snapshot"]]))
    timestamp = Timestamp(
        version=6,
        expires=FAR,
        snapshot_meta=meta(*files["snapshot.json"]),
        unrecognized_fields={"issued": int(NOW.timestamp()), "root": 3},
    )
    for name, (version, data) in files.items():
        (out / f"{version}.{name}").write_bytes(data)
    (out / "timestamp.json").write_bytes(signed(timestamp, [online["timestamp"]]))


main(*sys.argv[1:])
