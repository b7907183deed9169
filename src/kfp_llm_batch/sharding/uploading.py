"""The answers of a shard on their way to the output, joined to files of a size that stores and readers like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from kfp_llm_batch.disk import file_sha256, temporary_folder
from kfp_llm_batch.manifests import ResultManifest, StoredFile
from kfp_llm_batch.results.formats import EXTENSIONS, write_part
from kfp_llm_batch.results.ownership import own_name
from kfp_llm_batch.results.stored_result import stored_manifest
from kfp_llm_batch.storage.object_store import ObjectStore

FILE_BYTES = 64 * 2**20
"""Parts of a minute's work would be a hundred thousand objects for a hundred million rows."""


def upload_shard(
    folder: Path, manifest: ResultManifest, store: ObjectStore, shard: int, output_format: str
) -> ResultManifest:
    """Upload the files of a shard's local result to the output; the same files are not uploaded twice.

    Returns:
        The manifest with the files as they are stored.

    Raises:
        StorageError: The store does not answer or refuses, or the local disk is full.
    """
    with temporary_folder() as working_folder:
        upload = _Upload(
            folder=folder,
            manifest=manifest,
            store=store,
            output_format=output_format,
            replaced=stored_manifest(store),
            working_folder=working_folder,
        )
        return dataclasses.replace(
            manifest,
            output_format=output_format,
            parts=tuple(upload.files(f"parts/part-{shard:05d}", manifest.parts)),
            errors=tuple(upload.files(f"errors/errors-{shard:05d}", manifest.errors)),
        )


@dataclass(frozen=True, kw_only=True)
class _Upload:
    folder: Path
    manifest: ResultManifest
    store: ObjectStore
    output_format: str
    replaced: bytes | None
    working_folder: Path

    def files(self, stem: str, sources: Sequence[StoredFile]) -> Iterator[StoredFile]:
        """Join, convert and upload the files of one kind."""
        stored = {entry.key: entry.size for entry in self.store.list(stem)}
        converted = self.working_folder / "converted"
        for number, group in enumerate(_groups(sources)):
            with converted.open("wb") as sink:
                write_part(self._joined(group), self.manifest, self.output_format, sink)
            digest, size = file_sha256(converted), converted.stat().st_size
            key = own_name(stem, number, digest, self.replaced, EXTENSIONS[self.output_format])
            if stored.get(key) != size:
                self.store.upload(converted, key)
            yield StoredFile(path=key, rows=sum(entry.rows for entry in group), bytes=size, sha256=digest)

    def _joined(self, group: list[StoredFile]) -> Path:
        paths = [self.folder / file.path for file in group]
        if len(paths) == 1:
            return paths[0]
        target = self.working_folder / "joined"
        with pq.ParquetWriter(target, pq.read_schema(paths[0]), compression="zstd") as writer:
            for path in paths:
                writer.write_table(pq.read_table(path))
        return target


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
