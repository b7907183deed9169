"""Anyone can check a result: every byte is read again and held against the manifest."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from kfp_llm_batch.disk import file_sha256, temporary_folder
from kfp_llm_batch.duplicates import DuplicateFinder
from kfp_llm_batch.errors import ConfigurationError, ResultError
from kfp_llm_batch.manifests import FILE_NAME, Checksum, ResultManifest, StoredFile, reused_of
from kfp_llm_batch.results.facts import FactsBatch, UnreadablePartError, read_columns, read_facts
from kfp_llm_batch.results.formats import OUTPUT_FORMATS
from kfp_llm_batch.results.ownership import stored_sizes
from kfp_llm_batch.results.stored_result import no_result, parse_manifest, stored_manifest
from kfp_llm_batch.row_log import RowLog
from kfp_llm_batch.schemas import FAULTY
from kfp_llm_batch.storage.object_store import ObjectNotFoundError, ObjectStore, open_store
from kfp_llm_batch.storage.protocol import check_key

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What an audit found."""

    uri: str
    rows: int
    """Rows that were read in the parts."""
    rows_left_out: int = 0
    """Rows of the dataset that a partial result lacks."""
    rows_by_status: dict[str, int]
    files: int
    """Files under parts/ and errors/ that were read."""
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the result is exactly what its manifest says."""
        return not self.problems

    def to_text(self) -> str:
        """A few lines for people."""
        statuses = ", ".join(f"{count} {status}" for status, count in self.rows_by_status.items()) or "none"
        verdict = self._verdict() if self.ok else f"Problems: {len(self.problems)}"
        return "\n".join(
            [self.uri, f"Rows: {self.rows} ({statuses})", f"Files read: {self.files}", verdict]
            + [f"- {problem}" for problem in self.problems]
        )

    def _verdict(self) -> str:
        if not self.rows_left_out:
            return "The result is whole."
        rows_in = self.rows + self.rows_left_out
        return (
            f"The result is partial: {self.rows:,} of {rows_in:,} rows were answered in time; "
            "they are as the manifest says."
        )


def audit_result(uri: str) -> AuditReport:
    """Read the whole result at `uri` again, in a store or a local folder, and compare it with its manifest.

    Raises:
        ResultError: There is no result.
        StorageError: The store does not answer or refuses.
    """
    store = open_store(uri)
    if (data := stored_manifest(store)) is None:
        raise no_result(store)
    try:
        manifest = parse_manifest(store, data)
    except ResultError as error:
        return AuditReport(uri=store.uri, rows=0, rows_by_status={}, files=0, problems=(str(error),))
    with temporary_folder() as folder:
        return _Audit(store, manifest, folder / "part").run()


@dataclass(kw_only=True)
class _Tally:
    """Sums over rows, of fixed size but for eight bytes a row."""

    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    keys: Checksum = field(default_factory=Checksum)
    faulty: Checksum = field(default_factory=Checksum)
    row_ids: DuplicateFinder = field(default_factory=DuplicateFinder)
    reused: dict[str, int] = field(default_factory=lambda: reused_of(0, 0))

    def add(self, batch: FactsBatch) -> None:
        self.statuses.update(batch.statuses)
        self.num_prompt_tokens += batch.num_prompt_tokens
        self.num_completion_tokens += batch.num_completion_tokens
        for row_id, request_key in zip(batch.row_ids, batch.request_keys, strict=True):
            self.keys.add(row_id, request_key)
        self.row_ids.add_all(batch.row_ids)
        for row in batch.faulty:
            self.codes[(row.error or {}).get("code", "")] += 1
            self.faulty.add(row.row_id, row.request_key, row.status, json.dumps(row.error, sort_keys=True))
        self.reused["rows"] += len(batch.reused)
        self.reused["completion_tokens"] += sum(row.num_completion_tokens or 0 for row in batch.reused)


class _Audit:
    def __init__(self, store: ObjectStore, manifest: ResultManifest, path: Path) -> None:
        self._store = store
        self._manifest = manifest
        self._path = path
        self._problems: list[str] = []
        self._columns: tuple[str, pa.Schema | frozenset[str]] | None = None
        self._files = 0
        self._progress = RowLog("Read")
        self._is_complete = True
        self._stored = stored_sizes(store)

    def run(self) -> AuditReport:
        """All checks, in the order in which a reader wants to know."""
        parts, errors = _Tally(), _Tally()
        if self._manifest.output_format in OUTPUT_FORMATS:
            self._check(parts, errors)
        else:
            self._problems.append(f"{FILE_NAME}: the output_format {self._manifest.output_format!r} is unknown")
        return AuditReport(
            uri=self._store.uri,
            rows=parts.statuses.total(),
            rows_left_out=max(0, self._manifest.rows_in - parts.statuses.total()) if self._manifest.is_partial else 0,
            rows_by_status=dict(sorted(parts.statuses.items())),
            files=self._files,
            problems=tuple(self._problems),
        )

    def _check(self, parts: _Tally, errors: _Tally) -> None:
        self._read("parts/", self._manifest.parts, parts)
        self._read("errors/", self._manifest.errors, errors)
        self._check_unlisted()
        if self._is_complete:
            self._check_totals(parts)
            if self._manifest.is_partial:
                self._check_partial()
            self._check_errors(parts, errors)
        self._check_duplicates(parts)

    def _read(self, folder: str, files: tuple[StoredFile, ...], tally: _Tally) -> None:
        for file in files:
            try:
                self._fetch(folder, file)
                self._files += 1
                self._check_file(file, tally)
            except UnreadablePartError as error:
                self._is_complete = False
                self._problems.append(f"{file.path}: {error}")

    def _fetch(self, folder: str, file: StoredFile) -> None:
        """Bring the file to the one path where files are looked at."""
        try:
            is_inside = check_key(file.path).startswith(folder)
        except ConfigurationError:
            is_inside = False
        if not is_inside:
            raise UnreadablePartError(f"the manifest names a file outside {folder}")
        # Asked for a name that it cannot have, a store would end the audit.
        if file.path not in self._stored:
            raise UnreadablePartError("it is missing")
        try:
            self._store.download(file.path, self._path)
        except ObjectNotFoundError as error:
            raise UnreadablePartError("it is missing") from error

    def _check_file(self, file: StoredFile, tally: _Tally) -> None:
        if (size := self._path.stat().st_size) != file.bytes:
            self._problems.append(f"{file.path}: it has {size} bytes, the manifest says {file.bytes}")
        if (digest := file_sha256(self._path)) != file.sha256:
            self._problems.append(f"{file.path}: its bytes are not those of the manifest (SHA-256 {digest[:12]}...)")
        self._check_columns(file)
        before = tally.statuses.total()
        for batch in read_facts(self._path, self._manifest.output_format):
            tally.add(batch)
        self._progress.log(tally.statuses.total())
        if (rows := tally.statuses.total() - before) != file.rows:
            self._problems.append(f"{file.path}: it has {rows} rows, the manifest says {file.rows}")

    def _check_columns(self, file: StoredFile) -> None:
        columns = read_columns(self._path, self._manifest.output_format)
        if columns is None:
            return
        first, expected = self._columns = self._columns or (file.path, columns)
        if columns != expected:
            self._problems.append(f"{file.path}: its columns differ from those of {first}")

    def _check_unlisted(self) -> None:
        named = {file.path for file in (*self._manifest.parts, *self._manifest.errors)}
        for path in sorted(self._stored.keys() - named):
            self._problems.append(f"{path}: the manifest does not name it")

    def _check_totals(self, parts: _Tally) -> None:
        manifest = self._manifest
        rows = parts.statuses.total()
        of_all = {"dataset.rows": (manifest.dataset.get("rows"), rows), "rows_in": (manifest.rows_in, rows)}
        claims = {
            **({} if manifest.is_partial else of_all),
            "rows_out": (manifest.rows_out, rows),
            "rows_by_status": (_without_zeros(manifest.rows_by_status), dict(parts.statuses)),
            "errors_by_code": (manifest.errors_by_code, dict(parts.codes)),
            "num_prompt_tokens": (manifest.num_prompt_tokens, parts.num_prompt_tokens),
            "num_completion_tokens": (manifest.num_completion_tokens, parts.num_completion_tokens),
            "reused": (manifest.reused, parts.reused),
            "keys_checksum": (manifest.keys_checksum, parts.keys.hexdigest()),
        }
        for name, (claimed, found) in claims.items():
            # 3.0 and True are equal to numbers.
            if type(claimed) is not type(found) or claimed != found:
                self._problems.append(f"{FILE_NAME}: {name} is {claimed}, the parts hold {found}")

    def _check_partial(self) -> None:
        manifest = self._manifest
        dataset_rows = manifest.dataset.get("rows")
        if type(dataset_rows) is not int or dataset_rows != manifest.rows_in:
            self._problems.append(f"{FILE_NAME}: dataset.rows is {dataset_rows}, rows_in is {manifest.rows_in}")
        if manifest.rows_out >= manifest.rows_in:
            self._problems.append(
                f"{FILE_NAME}: the result is called partial, and rows_out is {manifest.rows_out}, "
                f"rows_in {manifest.rows_in}"
            )

    def _check_errors(self, parts: _Tally, errors: _Tally) -> None:
        expected = sum(parts.statuses[status] for status in FAULTY)
        found = errors.statuses.total()
        if expected != found or parts.faulty.hexdigest() != errors.faulty.hexdigest():
            self._problems.append(
                f"errors/: {found} rows, not exactly the {expected} rows of the parts that are {' or '.join(FAULTY)}"
            )

    def _check_duplicates(self, parts: _Tally) -> None:
        if suspects := parts.row_ids.suspects():
            places: dict[str, list[str]] = {}
            for path, row_id in self._row_ids():
                if hash(row_id) in suspects:
                    places.setdefault(row_id, []).append(path)
            repeated = [(row_id, paths) for row_id, paths in places.items() if len(paths) > 1]
            for row_id, paths in repeated[:_SHOWN]:
                self._problems.append(
                    f"{', '.join(dict.fromkeys(paths))}: the row {row_id!r} occurs {len(paths)} times"
                )
            if len(repeated) > _SHOWN:
                self._problems.append(f"parts/: {len(repeated) - _SHOWN} rows more occur several times")

    def _row_ids(self) -> Iterator[tuple[str, str]]:
        for file in self._manifest.parts:
            with contextlib.suppress(UnreadablePartError):
                self._fetch("parts/", file)
                for batch in read_facts(self._path, self._manifest.output_format):
                    yield from ((file.path, row_id) for row_id in batch.row_ids)


def _without_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
