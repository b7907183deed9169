"""A local result folder becomes a result in object storage: parts first, named by their content, the manifest last.

The manifest is what makes a result: a killed publication leaves none, and its parts are used or removed by the next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kfp_llm_batch.errors import ConfigurationError, DataError, ResultError, StorageError
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest, StoredFile
from kfp_llm_batch.results.formats import EXTENSIONS, check_output_format, write_part
from kfp_llm_batch.results.ownership import FOLDERS, check_ownership, is_own
from kfp_llm_batch.storage.object_store import ObjectNotFoundError, ObjectStore, open_store
from kfp_llm_batch.storage.protocol import check_key

CHECKPOINT_FOLDER = "checkpoint"
"""Beside the parts; holds finished rows of a run that has no result yet."""

_CHECKPOINT_PART = re.compile(rf"{CHECKPOINT_FOLDER}/part-[0-9a-f]{{32}}\.parquet")
_LOG = logging.getLogger("kfp_llm_batch")
_OVERWRITE = "Choose another output_uri, or set output_overwrite to replace it."


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


def read_manifest(store: ObjectStore) -> ResultManifest | None:
    """The manifest of the result in `store`, or None; a damaged one is a ResultError."""
    try:
        return ResultManifest.from_json(store.read(FILE_NAME), f"{store.uri}/{FILE_NAME}")
    except ObjectNotFoundError:
        return None
    except DataError as error:
        raise ResultError(str(error), remedy="Restore it, or write the result anew with output_overwrite.") from error


def fetch_result(output_uri: str, folder: Path) -> ResultManifest:
    """Download the result at `output_uri` into a local result folder, in the format that it has.

    Raises:
        ResultError: There is none, or a file is not what the manifest says.
    """
    store = open_store(output_uri)
    manifest = read_manifest(store)
    if manifest is None:
        raise ResultError(f"There is no result at {store.uri}", remedy=f"A result has a {FILE_NAME}.")
    for file in (*manifest.parts, *manifest.errors):
        path = folder / check_key(file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(file.path, path)
        check_file(path, file)
    manifest.save(folder)
    return manifest


def check_file(path: Path, expected: StoredFile) -> None:
    """Compare a local file with its entry in the manifest.

    Raises:
        ResultError: It is missing or has other bytes.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ResultError(
            f"The manifest names {expected.path}, and there is no such file", received=str(path)
        ) from error
    if digest != expected.sha256:
        raise ResultError(f"{path} is not what the manifest says: its SHA-256 is {digest}", received=expected.sha256)


def publish_result(
    folder: Path, output_uri: str, *, output_format: str = "parquet", overwrite: bool = False
) -> ResultManifest:
    """Write the local result in `folder` to `output_uri`; the same result twice is one result.

    Args:
        folder: A finished result folder, with its manifest.
        output_uri: Where to write.
        output_format: `parquet`, `jsonl` or `openai`.
        overwrite: Replace another result that stands there; readers see the old one or the new one.

    Raises:
        ConfigurationError: Another result stands there, or files of others stand in the way.
        ResultError: The local result is not what its manifest says.
        StorageError: The store does not answer or refuses.
    """
    check_output_format(output_format)
    return _Publication(folder, open_store(output_uri), output_format).run(overwrite)


class _Publication:
    """One local result on its way to one store."""

    def __init__(self, folder: Path, store: ObjectStore, output_format: str) -> None:
        self._folder = folder
        self._store = store
        self._source = _local_manifest(folder)
        self._format = output_format
        self._target = dataclasses.replace(
            self._source,
            output_format=output_format,
            parts=tuple(self._describe("parts/part", self._source.parts)),
            errors=tuple(self._describe("errors/errors", self._source.errors)),
        )

    def run(self, overwrite: bool) -> ResultManifest:
        """Upload what is missing, then set the manifest, then remove what it makes superfluous."""
        check_ownership(self._store)
        live = self._live_manifest(overwrite)
        if live is not None and not overwrite:
            self._refuse_another(live)
        self._upload_missing()
        if live is None or not _is_same(live, self._target):
            live = self._set_manifest(overwrite)
        self._remove_unnamed(live)
        self._remove_checkpoint()
        _LOG.info("%d rows are at %s", live.rows_out, self._store.uri)
        return live

    def _describe(self, stem: str, sources: tuple[StoredFile, ...]) -> Iterator[StoredFile]:
        for index, source in enumerate(sources):
            check_file(self._folder / check_key(source.path), source)
            digest = _DigestSink()
            write_part(self._folder / source.path, self._source, self._format, digest)
            name = f"{stem}-{index:05d}-{digest.hexdigest[:12]}.{EXTENSIONS[self._format]}"
            yield StoredFile(path=name, rows=source.rows, bytes=digest.size, sha256=digest.hexdigest)

    def _live_manifest(self, overwrite: bool) -> ResultManifest | None:
        try:
            return read_manifest(self._store)
        except ResultError:
            if not overwrite:
                raise
            return None

    def _refuse_another(self, live: ResultManifest) -> None:
        if not _is_same(live, self._target):
            raise ConfigurationError(
                f"Another result stands at the output: {live.rows_out} rows of model {live.model.get('uri')} as "
                f"{live.output_format}, written {live.created_at}",
                received=self._store.uri,
                remedy=_OVERWRITE,
            )

    def _upload_missing(self) -> None:
        stored = self._stored_sizes()
        for source, target in self._pairs():
            if stored.get(target.path) != target.bytes:
                self._upload(source, target)
        self._check_sizes()

    def _upload(self, source: StoredFile, target: StoredFile) -> None:
        if source.sha256 == target.sha256:
            self._store.upload(self._folder / source.path, target.path)
            return
        with tempfile.TemporaryDirectory(prefix="kfp-llm-batch-") as folder:
            converted = Path(folder, "part")
            with converted.open("wb") as sink:
                write_part(self._folder / source.path, self._source, self._format, sink)
            self._store.upload(converted, target.path)

    def _set_manifest(self, overwrite: bool) -> ResultManifest:
        if self._store.write(FILE_NAME, self._target.to_json().encode(), only_if_absent=not overwrite):
            # A writer that finished in between can have removed parts that no manifest named yet.
            self._upload_missing()
            return self._target
        winner = read_manifest(self._store)
        if winner is None or not _is_same(winner, self._target):
            self._withdraw(winner)
            raise ConfigurationError(
                "Another run wrote its result while this one did", received=self._store.uri, remedy=_OVERWRITE
            )
        return winner

    def _withdraw(self, winner: ResultManifest | None) -> None:
        kept = _names(winner) if winner else set()
        for _, target in self._pairs():
            if target.path not in kept:
                self._store.delete(target.path)

    def _remove_unnamed(self, live: ResultManifest) -> None:
        if read_manifest(self._store) != live:
            return
        for path in filter(is_own, self._stored_sizes().keys() - _names(live)):
            self._store.delete(path)

    def _remove_checkpoint(self) -> None:
        for entry in self._store.list(f"{CHECKPOINT_FOLDER}/"):
            if _CHECKPOINT_PART.fullmatch(entry.key):
                self._store.delete(entry.key)

    def _check_sizes(self) -> None:
        stored = self._stored_sizes()
        for _, target in self._pairs():
            size = stored.get(target.path)
            # What another run removed when it finished, the manifest's own put finds out.
            if size != target.bytes and (size is not None or read_manifest(self._store) is None):
                raise StorageError(
                    f"{self._store.uri}/{target.path} has {size} bytes after its upload, not {target.bytes}",
                    remedy="Run the step again; if it comes back, look at the store.",
                )

    def _pairs(self) -> Iterator[tuple[StoredFile, StoredFile]]:
        yield from zip(self._source.parts, self._target.parts, strict=True)
        yield from zip(self._source.errors, self._target.errors, strict=True)

    def _stored_sizes(self) -> dict[str, int]:
        return {entry.key: entry.size for folder in FOLDERS for entry in self._store.list(folder)}


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
    return (one.output_format, one.parts, one.errors, one.keys_checksum) == (
        other.output_format,
        other.parts,
        other.errors,
        other.keys_checksum,
    )


def _names(manifest: ResultManifest) -> set[str]:
    return {file.path for file in (*manifest.parts, *manifest.errors)}
