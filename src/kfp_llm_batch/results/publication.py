"""One local result on its way into a store: parts first, the manifest last.

The manifest is what makes a result. It is only ever created where there is none, or put in place of exactly the one
that was read, so of several publications at once each sees those before it. What a killed one has left is used by its
next try, or removed by the next publication.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kfp_llm_batch.disk import file_sha256, writing
from kfp_llm_batch.errors import ConfigurationError, DataError, ResultError, StorageError
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest, StoredFile
from kfp_llm_batch.results.formats import EXTENSIONS, write_part
from kfp_llm_batch.results.ownership import (
    CHECKPOINT_FOLDER,
    FOLDERS,
    check_ownership,
    is_checkpoint_part,
    is_leftover,
    own_name,
)
from kfp_llm_batch.storage.object_store import ObjectNotFoundError, ObjectStore
from kfp_llm_batch.storage.protocol import check_key

_LOG = logging.getLogger("kfp_llm_batch")
_ELSEWHERE = "Choose another output_uri"


class Publication:
    """Publishes one folder.

    Args:
        folder: A finished result folder, with its manifest.
        store: Where to write.
        output_format: `parquet`, `jsonl` or `openai`.
        overwrite: Replace another result.
    """

    def __init__(self, folder: Path, store: ObjectStore, output_format: str, *, overwrite: bool) -> None:
        self._folder = folder
        self._store = store
        self._source = _local_manifest(folder)
        self._format = output_format
        self._overwrite = overwrite
        self._parts = [self._describe(source) for source in self._source.parts]
        self._errors = [self._describe(source) for source in self._source.errors]

    def run(self) -> ResultManifest:
        """Publish, then remove what the result makes superfluous; the manifest of the result that stands."""
        check_ownership(self._store)
        try:
            live = self._publish()
        except ConfigurationError:
            remove_leftovers(self._store)
            raise
        remove_leftovers(self._store)
        if not (live.is_partial or self._source.is_partial):
            self._remove_checkpoint()
        _LOG.info("%d rows are at %s", live.rows_out, self._store.uri)
        return live

    def _publish(self) -> ResultManifest:
        while True:
            stored = stored_manifest(self._store)
            live = self._parsed(stored)
            target = self._target(stored)
            if live is not None and self._accepts(live, target):
                if not _is_same(live, target) or self._upload_missing(live, stored):
                    return live
                continue
            self._check_replaceable(live)
            # A failure means that another publication was first: then its manifest is looked at.
            if self._upload_missing(target, stored) and set_manifest(self._store, target, stored):
                return target

    def _describe(self, source: StoredFile) -> StoredFile:
        """A file as it will be stored, its name still that of the source."""
        check_file(self._folder / check_key(source.path), source)
        digest = _DigestSink()
        write_part(self._folder / source.path, self._source, self._format, digest)
        return dataclasses.replace(source, bytes=digest.size, sha256=digest.hexdigest)

    def _target(self, stored: bytes | None) -> ResultManifest:
        extension = EXTENSIONS[self._format]

        def name(stem: str, files: list[StoredFile]) -> Iterator[StoredFile]:
            for index, file in enumerate(files):
                yield dataclasses.replace(file, path=own_name(stem, index, file.sha256, stored, extension))

        return dataclasses.replace(
            self._source,
            output_format=self._format,
            parts=tuple(name("parts/part", self._parts)),
            errors=tuple(name("errors/errors", self._errors)),
        )

    def _parsed(self, stored: bytes | None) -> ResultManifest | None:
        try:
            return None if stored is None else parse_manifest(self._store, stored)
        except ResultError:
            if not self._overwrite:
                raise
            return None

    def _accepts(self, live: ResultManifest, target: ResultManifest) -> bool:
        """Whether the result that stands is as good as this one."""
        return _is_same(live, target) or (not self._overwrite and _work(live) == _work(target))

    def _check_replaceable(self, live: ResultManifest | None) -> None:
        if live is None or (live.is_partial and (self._overwrite or self._has_more_rows(live))):
            return
        standing = (
            f"{live.rows_out} rows of model {live.model.get('uri')} as {live.output_format}, written {live.created_at}"
        )
        if self._source.is_partial:
            kind = "partial" if live.is_partial else "whole"
            what, remedy = f"A {kind} result stands at the output, and this one is partial", f"{_ELSEWHERE}."
        elif self._overwrite:
            return
        else:
            what, remedy = (
                "Another result stands at the output",
                f"{_ELSEWHERE}, or set output_overwrite to replace it.",
            )
        raise ConfigurationError(f"{what}: {standing}", received=self._store.uri, remedy=remedy)

    def _has_more_rows(self, live: ResultManifest) -> bool:
        fingerprints = (live.dataset.get("fingerprint"), self._source.dataset.get("fingerprint"))
        return fingerprints[0] == fingerprints[1] and self._source.rows_out > live.rows_out

    def _upload_missing(self, target: ResultManifest, stored: bytes | None) -> bool:
        """Upload what is not there yet; False if another publication came first and removed it."""
        sizes = stored_sizes(self._store)
        for source, file in self._pairs(target):
            if sizes.get(file.path) != file.bytes:
                self._upload(source, file)
        sizes = stored_sizes(self._store)
        for _, file in self._pairs(target):
            if (size := sizes.get(file.path)) != file.bytes:
                if stored_manifest(self._store) != stored:
                    return False
                raise StorageError(
                    f"{self._store.uri}/{file.path} has {size} bytes after its upload, not {file.bytes}",
                    remedy="Run the step again; if it comes back, look at the store.",
                )
        return True

    def _upload(self, source: StoredFile, target: StoredFile) -> None:
        if source.sha256 == target.sha256:
            self._store.upload(self._folder / source.path, target.path)
            return
        with (
            writing(Path(tempfile.gettempdir())),
            tempfile.TemporaryDirectory(prefix="kfp-llm-batch-") as folder,
        ):
            converted = Path(folder, "part")
            with converted.open("wb") as sink:
                write_part(self._folder / source.path, self._source, self._format, sink)
            self._store.upload(converted, target.path)

    def _remove_checkpoint(self) -> None:
        for entry in self._store.list(f"{CHECKPOINT_FOLDER}/"):
            if is_checkpoint_part(entry.key):
                self._store.delete(entry.key)

    def _pairs(self, target: ResultManifest) -> Iterator[tuple[StoredFile, StoredFile]]:
        yield from zip(self._source.parts, target.parts, strict=True)
        yield from zip(self._source.errors, target.errors, strict=True)


def stored_manifest(store: ObjectStore) -> bytes | None:
    """The bytes of the manifest that stands in `store`, or None."""
    try:
        return store.read(FILE_NAME)
    except ObjectNotFoundError:
        return None


def stored_sizes(store: ObjectStore) -> dict[str, int]:
    """Bytes of each file under `parts/` and `errors/`."""
    return {entry.key: entry.size for folder in FOLDERS for entry in store.list(folder)}


def set_manifest(store: ObjectStore, manifest: ResultManifest, replaced: bytes | None) -> bool:
    """Declare a result, in place of exactly the manifest that was read; False if another one came first."""
    data = manifest.to_json().encode()
    if replaced is None:
        return store.write(FILE_NAME, data, only_if_absent=True)
    return store.replace(FILE_NAME, replaced, data)


def remove_leftovers(store: ObjectStore) -> None:
    """Remove the files that no publication can have a use for."""
    # Listed before the manifest is read: a file that comes later may wait for a manifest that comes later.
    keys = [*stored_sizes(store)]
    manifest = stored_manifest(store)
    if manifest is None:
        return
    live = parse_manifest(store, manifest)
    named = {file.path for file in (*live.parts, *live.errors)}
    for key in keys:
        if is_leftover(key, named, manifest):
            store.delete(key)


def parse_manifest(store: ObjectStore, data: bytes) -> ResultManifest:
    """The manifest of the result in `store`.

    Raises:
        ResultError: It is damaged.
    """
    try:
        return ResultManifest.from_json(data, f"{store.uri}/{FILE_NAME}")
    except DataError as error:
        raise ResultError(str(error), remedy="Restore it, or write the result anew with output_overwrite.") from error


def check_file(path: Path, expected: StoredFile) -> None:
    """Compare a local file with its entry in the manifest.

    Raises:
        ResultError: It is missing or has other bytes.
    """
    try:
        digest = file_sha256(path)
    except FileNotFoundError as error:
        raise ResultError(
            f"The manifest names {expected.path}, and there is no such file", received=str(path)
        ) from error
    if digest != expected.sha256:
        raise ResultError(f"{path} is not what the manifest says: its SHA-256 is {digest}", received=expected.sha256)


class _DigestSink:
    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)

    @property
    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _local_manifest(folder: Path) -> ResultManifest:
    path = folder / FILE_NAME
    if not path.is_file():
        raise ResultError(f"There is no finished result in {folder}", remedy=f"A result has a {FILE_NAME}.")
    return ResultManifest.from_json(path.read_bytes(), str(path))


def _is_same(one: ResultManifest, other: ResultManifest) -> bool:
    """Whether both hold the same rows in the same files; when and where they were made does not matter."""
    return (_work(one), _contents(one)) == (_work(other), _contents(other))


def _contents(manifest: ResultManifest) -> list[list[tuple[str, int, int]]]:
    return [[(file.sha256, file.rows, file.bytes) for file in files] for files in (manifest.parts, manifest.errors)]


def _work(manifest: ResultManifest) -> tuple[object, ...]:
    """What was asked, and how much of it is answered; the answers and their cut into parts may differ."""
    fingerprint = manifest.dataset.get("fingerprint")
    return manifest.keys_checksum, manifest.rows_in, fingerprint, manifest.output_format, manifest.is_partial
