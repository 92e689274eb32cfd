"""The TUF project's own client (python-tuf) over a publishing directory: refresh, then look targets up.

Usage: tuf_client.py METADATA_DIR FIRST_ROOT CACHE_DIR TARGET...
Prints one JSON object: versions of the roles, and for each target its length and SHA-256, or null.
"""

import json
import pathlib
import sys

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface


class Files(FetcherInterface):
    """The board, as a directory."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def _fetch(self, url):
        path = self.directory / url.rsplit("/", 1)[1]
        if not path.is_file():
            raise DownloadHTTPError("not there", 404)
        yield path.read_bytes()


def main(metadata, root, cache, *targets):
    updater = Updater(
        metadata_dir=cache,
        metadata_base_url="https://board.invalid/",
        fetcher=Files(metadata),
        bootstrap=pathlib.Path(root).read_bytes(),
    )
    updater.refresh()
    found = {}
    for name in targets:
        info = updater.get_targetinfo(name)
        found[name] = info and {"length": info.length, "sha256": info.hashes["sha256"]}
    trusted = updater._trusted_set
    versions = {role: getattr(trusted, role).version for role in ("root", "timestamp", "snapshot", "targets")}
    print(json.dumps({"versions": versions, "targets": found}))


main(*sys.argv[1:])
