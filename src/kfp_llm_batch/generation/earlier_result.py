"""An earlier result whose good rows are taken over, so that only the others are answered."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.provenance import Origin
from kfp_llm_batch.hashes import hash_texts
from kfp_llm_batch.results.publishing import fetch_result
from kfp_llm_batch.schemas import COMPLETION_COLUMNS, COMPLETION_FIELDS, FAULTY

_LOG = logging.getLogger("kfp_llm_batch")
_NOT_CLAIMED = -1


class EarlierResult:
    """Holds 48 bytes a row in memory; the rows themselves wait on disk.

    Args:
        uri: Address of the result.
        folder: Where its files are fetched to.
        codes: Error codes and statuses of the rows to be answered again; none means all without an answer.

    Raises:
        ConfigurationError: No row has such a code, or the result's format does not hold whole rows.
        ResultError: There is no result, or it is damaged.
    """

    def __init__(self, uri: str, folder: Path, codes: Sequence[str]) -> None:
        self.uri = uri
        self._codes = frozenset(codes or FAULTY)
        self._folder = folder
        self._manifest = fetch_result(uri, folder)
        if self._manifest.output_format == "openai":
            raise ConfigurationError(
                "retry_of cannot take over rows of a result in the format openai, which holds less than a row",
                received=uri,
                allowed=["parquet", "jsonl"],
            )
        self._read_keys()

    def _read_keys(self) -> None:
        row_ids, keys, found = [], [], set(FAULTY)
        for table in self._tables(["row_id", "request_key", "status", "error"]):
            for row in table.to_pylist():
                labels = _labels(row)
                found |= labels
                if not labels & self._codes:
                    row_ids.append(row["row_id"])
                    keys.append(row["request_key"])
        if unknown := sorted(self._codes - found):
            raise ConfigurationError(
                "The earlier result has no row with such an error code or status",
                received=unknown,
                allowed=sorted(found),
            )
        hashes = hash_texts(row_ids)
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._keys = np.array([bytes.fromhex(key) for key in keys], "V32")[order]
        self._rows = np.full(len(order), _NOT_CLAIMED, np.int64)

    @property
    def rows(self) -> int:
        """Rows that were taken over."""
        return int(np.count_nonzero(self._rows != _NOT_CLAIMED))

    def claim(self, row_id: str, row: int) -> str | None:
        """Take over the row of today's dataset with this id and number.

        Returns:
            The request key of the answer it has, or None if it has to be answered.
        """
        (wanted,) = hash_texts([row_id])
        place = int(np.searchsorted(self._hashes, wanted))
        if place == len(self._hashes) or self._hashes[place] != wanted:
            return None
        self._rows[place] = row
        return bytes(self._keys[place]).hex()

    def completions(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and columns of each row that was claimed; a row says whose answer it is."""
        run = Origin(run_id=self._manifest.run_id, output_uri=self.uri)
        own = run.provenance(self._manifest.created_at)
        for table in self._tables(COMPLETION_COLUMNS):
            completions = table.to_pylist()
            places = np.searchsorted(self._hashes, hash_texts([entry["row_id"] for entry in completions]))
            for place, completion in zip(places.tolist(), completions, strict=True):
                if not _labels(completion) & self._codes and (row := int(self._rows[place])) != _NOT_CLAIMED:
                    made_by = None if completion["status"] in FAULTY else completion["provenance"] or own
                    yield row, {**completion, "provenance": made_by}
        if missing := int(np.count_nonzero(self._rows == _NOT_CLAIMED)):
            _LOG.warning("%d rows of %s are not in today's dataset; they are left out.", missing, self.uri)

    def _tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        schema = pa.schema([column for column in COMPLETION_FIELDS if column.name in columns])
        for part in self._manifest.parts:
            path = self._folder / part.path
            if self._manifest.output_format == "parquet":
                with pq.ParquetFile(path) as file:
                    yield file.read(schema.names)
            else:
                with path.open(encoding="utf-8") as lines:
                    yield pa.Table.from_pylist([json.loads(line) for line in lines], schema=schema)


def _labels(row: dict[str, Any]) -> set[str]:
    """What a row may be chosen by: its status, and its error's code."""
    return {row["status"], *([row["error"]["code"]] if row["error"] else ())}
