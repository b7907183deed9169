"""Results in object storage: the check of a destination, publishing, finding and fetching."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

from kfp_llm_batch import termination
from kfp_llm_batch.disk import temporary_folder, writing
from kfp_llm_batch.errors import ConfigurationError, ResultError, StorageError
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest, StoredFile
from kfp_llm_batch.results.formats import EXTENSIONS, check_output_format, write_part
from kfp_llm_batch.results.ownership import (
    check_ownership,
    own_name,
    remove_checkpoint,
    stored_sizes,
)
from kfp_llm_batch.results.stored_result import (
    check_file,
    check_replaceable,
    expect_manifest,
    in_words,
    parse_manifest,
    read_manifest,
    remove_leftovers,
    set_manifest,
    stored_manifest,
)
from kfp_llm_batch.storage.object_store import LONG_PATIENCE_SECONDS, ObjectStore, open_store
from kfp_llm_batch.storage.protocol import check_key

_LOG = logging.getLogger("kfp_llm_batch")


def check_destination(output_uri: str) -> None:
    """Prove, before hours of work, that a result can be written there: a small object is written, read and deleted.

    Raises:
        ConfigurationError: The address or the store's settings are wrong, or files of others stand in the way.
        StorageError: The store does not answer or refuses.
    """
    store = open_store(output_uri)
    key, data = f"probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
    store.write(key, data, only_if_absent=True)
    try:
        if store.read(key) != data:
            raise StorageError(f"The store at {store.uri} gives other bytes than were written")
        if store.write(key, b"", only_if_absent=True):
            _LOG.warning("The store at %s overwrites on a conditional put: two writers could mix.", store.uri)
    finally:
        store.delete(key)
    check_ownership(store)


def existing_result(output_uri: str) -> ResultManifest | None:
    """The manifest of the result at `output_uri`, or None.

    Raises:
        ResultError: There is a manifest, and it is damaged.
    """
    return read_manifest(open_store(output_uri))


def fetch_result(output_uri: str, folder: Path) -> ResultManifest:
    """Download the result at `output_uri` into a local result folder, in the format that it has.

    Raises:
        ResultError: There is none, or a file is not what the manifest says.
        InterruptedRunError: SIGTERM has come.
    """
    manifest = expect_manifest(open_store(output_uri))
    # The store has just answered: what fails from now on passes.
    store = open_store(output_uri, patience_seconds=LONG_PATIENCE_SECONDS)
    for file in (*manifest.parts, *manifest.errors):
        termination.check()
        path = folder / check_key(file.path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        store.download(file.path, path)
        check_file(path, file)
    manifest.save(folder)
    return manifest


def publish_result(
    folder: Path, output_uri: str, *, output_format: str = "parquet", overwrite: bool = False
) -> ResultManifest:
    """Write the local result in `folder` to `output_uri`; the same result, or the same work, twice is one result.

    Work is the same if the same rows were asked the same; its answers may differ. Without `overwrite` the result that
    stands is then the outcome. A partial result gives way to one with more rows of the same dataset.

    Args:
        folder: A finished result folder, with its manifest.
        output_uri: Where to write.
        output_format: `parquet`, `jsonl` or `openai`.
        overwrite: Replace another result that stands there; readers see the old one or the new one. A partial result
            never replaces a whole one.

    Returns:
        The manifest of the result that stands there now.

    Raises:
        ConfigurationError: Another result stands there, or files of others stand in the way.
        ResultError: The local result is not what its manifest says.
        StorageError: The store does not answer or refuses.
    """
    check_output_format(output_format)
    store = open_store(output_uri, patience_seconds=LONG_PATIENCE_SECONDS)
    return _Publication(folder, store, output_format, overwrite=overwrite).run()


class _Publication:
    """A finished result folder on its way into a store: parts first, the manifest last."""

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
            remove_checkpoint(self._store)
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
        if self._source.is_partial:
            kind = "partial" if live.is_partial else "whole"
            raise ConfigurationError(
                f"A {kind} result stands at the output, and this one is partial: {in_words(live)}",
                received=self._store.uri,
                remedy="Choose another output_uri.",
            )
        check_replaceable(live, self._store.uri, overwrite=self._overwrite)

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
        with temporary_folder() as folder:
            converted = folder / "part"
            with converted.open("wb") as sink:
                write_part(self._folder / source.path, self._source, self._format, sink)
            self._store.upload(converted, target.path)

    def _pairs(self, target: ResultManifest) -> Iterator[tuple[StoredFile, StoredFile]]:
        yield from zip(self._source.parts, target.parts, strict=True)
        yield from zip(self._source.errors, target.errors, strict=True)


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
