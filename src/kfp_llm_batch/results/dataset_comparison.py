"""Whether a result holds exactly the rows of a dataset, which is read and rendered again as it was for the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import ResultError
from kfp_llm_batch.hashes import hash_texts
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest
from kfp_llm_batch.results.carried_columns import (
    PartRows,
    columns_in_format,
    read_part,
    rows_that_differ,
)
from kfp_llm_batch.results.stored_result import check_file, expect_manifest
from kfp_llm_batch.row_log import RowLog
from kfp_llm_batch.storage.object_store import ObjectStore, open_store

_SHOWN = 10
_SHOWN_CHARACTERS = 80
_ABSENT = -1
_HUB = "hf://"


@dataclass(frozen=True, kw_only=True)
class DatasetComparison:
    """What a comparison found."""

    uri: str
    """Of the dataset, fit for messages."""
    rows: int
    """Rows of the dataset."""
    rows_left_out: int
    """Those that are not in a partial result."""
    compared: tuple[str, ...]
    """Names of the carried columns that were compared."""
    is_order_open: bool
    """Whether nothing ties the answers to their rows: these are numbered, without columns, and of other files."""
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the result holds rows of the dataset alone and, unless it is partial, all of them."""
        return not self.problems

    def to_text(self) -> str:
        """A few lines for people."""
        compared = ", ".join(["row ids", "fingerprint", *(f"column {name}" for name in self.compared)])
        lines = [f"Dataset: {self.uri} ({self.rows:,} rows)", f"Compared: {compared}"]
        if self.is_order_open:
            lines.append("Not compared: the order of the rows, which are numbered, as the result carries no columns")
        lines.append(self._verdict() if self.ok else f"Differences: {len(self.problems)}")
        return "\n".join(lines + [f"- {problem}" for problem in self.problems])

    def _verdict(self) -> str:
        if not self.rows_left_out:
            return "The result holds exactly the rows of the dataset."
        answered = self.rows - self.rows_left_out
        return f"The result holds {answered:,} of the {self.rows:,} rows of the dataset, and no others."


def compare_with_dataset(uri: str, dataset_uri: str) -> DatasetComparison:
    """Load a dataset with the parameters that the result at `uri` records, and compare their rows.

    Args:
        uri: Address of a result that `audit_result` found whole.
        dataset_uri: Address of the dataset.

    Raises:
        ResultError: There is no result, or its manifest does not say how its rows were read.
        BatchError: The dataset cannot be read; the same errors as in `load_dataset`.
    """
    store = open_store(uri)
    manifest = expect_manifest(store)
    config = _config(manifest, dataset_uri)
    with temporary_folder() as folder:
        load_dataset(config, folder)
        return _Comparison(store, manifest, Prompts(folder)).run()


def _config(manifest: ResultManifest, dataset_uri: str) -> DatasetConfig:
    """The recorded parameters for another address: a copy, or the same dataset at the commit that was answered."""
    recorded = manifest.dataset.get("parameters")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("uri"), str):
        raise ResultError(
            f"{FILE_NAME} does not record how the dataset was read: it has no dataset.parameters",
            remedy="Write the result anew; without them its rows cannot be compared with a dataset.",
        )
    changes: dict[str, Any] = {"uri": dataset_uri}
    was_hub, is_hub = (address.lower().startswith(_HUB) for address in (recorded["uri"], dataset_uri))
    if was_hub != is_hub:
        changes |= {"format": "auto", "config": None, "revision": None, "split": None}
    elif is_hub:
        changes |= {"revision": manifest.dataset.get("revision")}
    return _checked({**recorded, **changes})


def _checked(parameters: dict[str, Any]) -> DatasetConfig:
    try:
        for name, value in parameters.items():
            if value is not None and type(value) is not {"limit": int, "prompt_examples": list}.get(name, str):
                raise TypeError(f"{name} is of the wrong type")
        return DatasetConfig(**parameters)
    except TypeError as error:
        raise ResultError(f"{FILE_NAME}: dataset.parameters are not those of a dataset: {error}") from error


class _RowNumbers:
    """Finds rows of the dataset by their ids; 16 bytes a row."""

    def __init__(self, prompts: Prompts) -> None:
        ids = (batch.column("row_id").to_pylist() for _, batch in prompts.batches())
        hashes = np.concatenate([np.empty(0, np.uint64), *map(hash_texts, ids)])
        self._numbers = np.argsort(hashes)
        self._hashes = hashes[self._numbers]

    def find(self, row_ids: list[str]) -> npt.NDArray[np.int64]:
        """The rows' numbers, or _ABSENT."""
        if not len(self._hashes):
            return np.full(len(row_ids), _ABSENT)
        wanted = hash_texts(row_ids)
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        return np.where(self._hashes[places] == wanted, self._numbers[places], _ABSENT)


class _Findings:
    """Counts texts, and keeps the first ten."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(text)


class _Comparison:
    def __init__(self, store: ObjectStore, manifest: ResultManifest, prompts: Prompts) -> None:
        self._store = store
        self._manifest = manifest
        self._prompts = prompts
        self._names = [field.name for field in prompts.source_fields]
        self._numbers = _RowNumbers(prompts)
        self._is_found = np.zeros(prompts.manifest.rows, np.bool_)
        self._compared: list[str] | None = None
        self._columns: list[str] = []
        self._foreign = _Findings()
        self._different = _Findings()

    def run(self) -> DatasetComparison:
        """One look at every row of the result."""
        progress, rows = RowLog("Compared"), 0
        for part in self._parts():
            for batch in read_part(part, self._manifest.output_format):
                self._compare(batch)
                rows += len(batch.row_ids)
                progress.log(rows)
        missing = np.flatnonzero(~self._is_found)
        return DatasetComparison(
            uri=self._prompts.manifest.source_uri,
            rows=self._prompts.manifest.rows,
            rows_left_out=len(missing),
            compared=tuple(self._compared or ()),
            is_order_open=self._is_order_open(),
            problems=tuple(self._problems(missing)),
        )

    def _parts(self) -> Iterator[Path]:
        for file in self._manifest.parts:
            with temporary_folder() as folder:
                path = folder / "part"
                self._store.download(file.path, path)
                # It may have been replaced since the audit.
                check_file(path, file)
                yield path

    def _compare(self, batch: PartRows) -> None:
        numbers = self._numbers.find(batch.row_ids)
        for place in np.flatnonzero(numbers == _ABSENT):
            self._foreign.add(_shown(batch.row_ids[place]))
        places = np.flatnonzero(numbers != _ABSENT)
        self._is_found[numbers[places]] = True
        if batch.columns is not None and len(places):
            expected = columns_in_format(self._dataset_rows(numbers[places]), self._manifest.output_format)
            self._compare_columns(expected, batch, places)

    def _dataset_rows(self, numbers: npt.NDArray[np.int64]) -> pa.Table:
        """The carried columns of these rows, in this order."""
        order = np.argsort(numbers)
        table = self._prompts.columns(self._names, numbers[order].tolist())
        return table.take(np.argsort(order)) if self._names else table

    def _compare_columns(
        self, expected: Mapping[str, pa.Array], batch: PartRows, places: npt.NDArray[np.int64]
    ) -> None:
        found = {name: column.take(pa.array(places)) for name, column in (batch.columns or {}).items()}
        if self._compared is None:
            self._columns = list(_column_problems(expected, found))
            self._compared = [name for name in expected if name in found and expected[name].type == found[name].type]
        differing: dict[int, list[str]] = {}
        for name in self._compared:
            for index in rows_that_differ(expected[name], found[name]):
                differing.setdefault(index, []).append(name)
        for index, names in sorted(differing.items()):
            verb = "column {} differs" if len(names) == 1 else "columns {} differ"
            self._different.add(f"row {_shown(batch.row_ids[places[index]])}: {verb.format(', '.join(names))}")

    def _is_order_open(self) -> bool:
        source = self._prompts.manifest
        is_numbered = source.parameters["id_column"] is None and source.source_format != "openai"
        return is_numbered and not self._compared and source.source_revision != self._manifest.dataset.get("revision")

    def _problems(self, missing: npt.NDArray[np.int64]) -> Iterator[str]:
        if len(missing) and not self._manifest.is_partial:
            names = self._prompts.columns(["row_id"], missing[:_SHOWN].tolist())["row_id"].to_pylist()
            yield _listed(len(missing), "of the dataset {} not in the result", map(_shown, names))
        if self._foreign.count:
            yield _listed(self._foreign.count, "of the result {} not in the dataset", self._foreign.shown)
        yield from self._columns
        yield from self._different.shown
        if (more := self._different.count - _SHOWN) > 0:
            yield f"{more:,} rows more differ"
        given, answered = self._prompts.manifest.fingerprint, self._manifest.dataset.get("fingerprint")
        if given != answered:
            yield (
                "the dataset gives other rows, prompts or values than those that were answered: "
                f"its fingerprint is {given[:12]}..., the manifest says {str(answered)[:12]}..."
            )


def _column_problems(expected: Mapping[str, pa.Array], found: Mapping[str, pa.Array]) -> Iterator[str]:
    for name, column in expected.items():
        if name not in found:
            yield f"column {name} of the dataset is not in the result"
        elif (kind := found[name].type) != column.type:
            yield f"column {name} holds {kind} in the result, {column.type} in the dataset"
    for name in found:
        if name not in expected:
            yield f"column {name} of the result is not in the dataset"


def _listed(count: int, words: str, names: Iterable[str]) -> str:
    shown = ", ".join(names)
    subject = f"{count:,} {'row' if count == 1 else 'rows'} {words.format('is' if count == 1 else 'are')}"
    return f"{subject}: {shown}{', ...' if count > _SHOWN else ''}"


def _shown(row_id: str) -> str:
    return repr(row_id if len(row_id) <= _SHOWN_CHARACTERS else f"{row_id[:_SHOWN_CHARACTERS]}...")
