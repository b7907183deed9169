"""The answers of a shard on their way to the output, joined to files of a size that stores and readers like."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from kfp_llm_batch.disk import writing
from kfp_llm_batch.manifests import ResultManifest, StoredFile
from kfp_llm_batch.results.formats import EXTENSIONS, write_part
from kfp_llm_batch.results.ownership import own_name
from kfp_llm_batch.results.publication import stored_manifest
from kfp_llm_batch.storage.object_store import ObjectStore

FILE_BYTES = 64 * 2**20
"""Parts of a minute's work would be a hundred thousand objects for a hundred million rows."""


def upload_shard(
    folder: Path, manifest: ResultManifest, store: ObjectStore, shard: int, output_format: str
) -> ResultManifest:
    """Upload the files of a local result in Parquet; the same files are not uploaded twice.

    Args:
        folder: The local result.
        manifest: What it holds.
        store: Rooted at the output.
        shard: Number of the shard, for the files' names.
        output_format: `parquet`, `jsonl` or `openai`.

    Returns:
        The manifest with the files as they are stored.

    Raises:
        StorageError: The store does not answer or refuses, or the local disk is full.
    """
    upload = _Upload(folder, manifest, store, shard, output_format)
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="kfp-llm-batch-") as name:
        return dataclasses.replace(
            manifest,
            output_format=output_format,
            parts=tuple(upload.files("parts/part", manifest.parts, Path(name))),
            errors=tuple(upload.files("errors/errors", manifest.errors, Path(name))),
        )


class _Upload:
    def __init__(
        self, folder: Path, manifest: ResultManifest, store: ObjectStore, shard: int, output_format: str
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._store = store
        self._shard = shard
        self._format = output_format
        self._replaced = stored_manifest(store)

    def files(self, stem: str, sources: Sequence[StoredFile], working_folder: Path) -> Iterator[StoredFile]:
        """Join, convert and upload the files of one kind."""
        stem = f"{stem}-{self._shard:05d}"
        stored = {entry.key: entry.size for entry in self._store.list(stem)}
        joined, converted = working_folder / "joined", working_folder / "converted"
        for number, group in enumerate(_groups(sources)):
            source = self._joined(group, joined)
            with converted.open("wb") as sink:
                write_part(source, self._manifest, self._format, sink)
            file = self._described(converted, stem, number, sum(entry.rows for entry in group))
            if stored.get(file.path) != file.bytes:
                self._store.upload(converted, file.path)
            yield file

    def _joined(self, group: list[StoredFile], target: Path) -> Path:
        paths = [self._folder / file.path for file in group]
        if len(paths) == 1:
            return paths[0]
        with pq.ParquetWriter(target, pq.read_schema(paths[0]), compression="zstd") as writer:
            for path in paths:
                writer.write_table(pq.read_table(path))
        return target

    def _described(self, path: Path, stem: str, number: int, rows: int) -> StoredFile:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = own_name(stem, number, digest, self._replaced, EXTENSIONS[self._format])
        return StoredFile(path=name, rows=rows, bytes=path.stat().st_size, sha256=digest)


def _groups(files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
    """Consecutive files that make up FILE_BYTES together, or little less."""
    group: list[StoredFile] = []
    for file in files:
        if group and sum(entry.bytes for entry in group) + file.bytes > FILE_BYTES:
            yield group
            group = []
        group.append(file)
    if group:
        yield group
