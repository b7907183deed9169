"""Finished rows leave the pod while the run goes on, and come back when it is started again."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch import termination
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import file_sha256, temporary_folder
from kfp_llm_batch.errors import StorageError
from kfp_llm_batch.generation.parts import PartWriter
from kfp_llm_batch.manifests import StoredFile
from kfp_llm_batch.schemas import COMPLETION_COLUMNS
from kfp_llm_batch.storage.object_store import LONG_PATIENCE_SECONDS, ObjectNotFoundError, ObjectStore, open_store

_LOG = logging.getLogger("kfp_llm_batch")
ROWS_PER_BATCH = 1000
_PART_NAME = re.compile(r"part-[0-9a-f]{32}\.parquet")


class Checkpoint:
    """Immutable parts at an address; each is named by its content and says itself what it holds.

    Args:
        uri: A folder, s3:// or gs:// address.
    """

    def __init__(self, uri: str) -> None:
        # Once the run goes on, finished rows wait in the pod for a store that is down.
        self._store = open_store(uri, patience_seconds=LONG_PATIENCE_SECONDS)
        self.uri = self._store.uri
        self._address = uri

    def part_names(self) -> list[str]:
        """The parts that are there, asked before the run's work: a store that does not answer is an error soon."""
        return _part_names(open_store(self._address))

    def tables(self) -> Iterator[pa.Table]:
        """Our columns of each part that is not damaged, a bounded number of rows at a time.

        Raises:
            InterruptedRunError: SIGTERM has come.
        """
        for name in _part_names(self._store):
            termination.check()
            yield from self._read(name)

    def save(self, path: Path, part: StoredFile) -> None:
        """Store one part.

        Raises:
            StorageError: The store did not take it for five minutes, or refused; the message counts the rows.
        """
        try:
            self._store.upload(path, _part_name(part.sha256))
        except StorageError as error:
            raise StorageError(f"{error} {part.rows:,} finished rows are not in the checkpoint") from error

    def _read(self, name: str) -> Iterator[pa.Table]:
        """Nothing if the part is damaged, so that its rows are answered anew."""
        with temporary_folder() as folder:
            path = folder / "part.parquet"
            try:
                self._store.download(name, path)
            except ObjectNotFoundError:
                return  # another run has finished and cleaned up
            if name != _part_name(file_sha256(path)):
                _LOG.warning("The part %s at %s is damaged; its rows are answered anew.", name, self.uri)
                return
            with pq.ParquetFile(path) as part:
                for batch in part.iter_batches(ROWS_PER_BATCH, columns=COMPLETION_COLUMNS):
                    yield pa.Table.from_batches([batch])

    def clear(self) -> None:
        """Remove all parts."""
        for name in _part_names(self._store):
            self._store.delete(name)


def _part_names(store: ObjectStore) -> list[str]:
    return [entry.key for entry in store.list("part-") if _PART_NAME.fullmatch(entry.key)]


def _part_name(digest: str) -> str:
    return f"part-{digest[:32]}.parquet"


class RowIndex:
    """Finds the rows of a dataset that wait for the answer to a request; 16 bytes a row."""

    def __init__(self) -> None:
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._rows: npt.NDArray[np.int64] | None = None

    def add(self, keys: list[str]) -> None:
        """Take the request keys of the next rows."""
        self._hashes.append(_hashes(keys))

    def rows(self, key: str) -> npt.NDArray[np.int64]:
        """Numbers of the rows with this request."""
        if self._rows is None:
            hashes = np.concatenate([np.empty(0, np.uint64), *self._hashes])
            self._rows = np.argsort(hashes, kind="stable")
            self._hashes = [hashes[self._rows]]
        (hash_of_key,) = _hashes([key])
        first, last = (np.searchsorted(self._hashes[0], hash_of_key, side) for side in ("left", "right"))
        return self._rows[first:last]


def _hashes(keys: list[str]) -> npt.NDArray[np.uint64]:
    return np.array([int(key[:16], 16) for key in keys], np.uint64)


def restore(checkpoint: Checkpoint, prompts: Prompts, index: RowIndex, done: bytearray, writer: PartWriter) -> None:
    """Hand the checkpoint's answers to the writer, for every row of today's dataset that asks the same.

    `done`, by a row's number 1 where it has its answer, is brought up to date.
    """
    for table in checkpoint.tables():
        for row, completion in _answers(table, prompts, index, done):
            writer.add(row, completion)
    writer.flush()


def _answers(
    table: pa.Table, prompts: Prompts, index: RowIndex, done: bytearray
) -> Iterator[tuple[int, dict[str, Any]]]:
    found: dict[int, dict[str, Any]] = {}
    for completion in table.to_pylist():
        if completion["status"] == "invalid":
            continue  # what makes a row invalid is found again, with today's parameters
        for row in map(int, index.rows(completion["request_key"])):
            if not done[row]:
                done[row] = 1
                found[row] = completion
    rows = sorted(found)
    for row, row_id in zip(rows, prompts.columns(["row_id"], rows)["row_id"].to_pylist(), strict=True):
        yield row, {**found[row], "row_id": row_id}
