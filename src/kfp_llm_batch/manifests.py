"""The two manifests: what a folder of prompts and what a result holds. Both are written last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin, get_type_hints

from kfp_llm_batch.disk import file_sha256, new_file
from kfp_llm_batch.errors import DataError

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1


class Checksum:
    """Order-independent digest of a collection of byte strings: the sum of their SHA-256, modulo 2**256.

    A sum, unlike an exclusive or, does not cancel a string that occurs twice.
    """

    def __init__(self) -> None:
        self._sum = 0
        self.count = 0
        """Items added."""

    def add(self, *parts: str) -> None:
        """Add one item that consists of `parts`; JSON keeps ("ab", "c") and ("a", "bc") apart."""
        # The same bytes as json.dumps, which takes four times as long for two texts.
        item = f"[{', '.join(map(encode_basestring_ascii, parts))}]"
        self.count += 1
        self._sum += int.from_bytes(hashlib.sha256(item.encode()).digest(), "big")

    def include(self, hexdigest: str, count: int) -> None:
        """Add all items of another checksum, `count` of them."""
        self.count += count
        self._sum += int(hexdigest, 16)

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._sum % 2**256:064x}"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of a manifest."""

    path: str
    """Relative to the manifest's folder."""
    rows: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str, rows: int) -> StoredFile:
        """The entry of a whole local file under the name that it will have."""
        return cls(path=name, rows=rows, bytes=path.stat().st_size, sha256=file_sha256(path))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What every manifest can do."""

    title: ClassVar[str]
    """How errors call it."""

    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Indented JSON with sorted keys, so that the same facts are the same bytes."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    def save(self, folder: Path) -> None:
        """Write the manifest into `folder` in one step: it is there whole or not at all."""
        with new_file(folder / FILE_NAME) as path:
            path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Self:
        """Parse a manifest; `origin` names it in errors.

        Raises:
            DataError: It is damaged, has another schema version, or is the manifest of something else.
        """
        try:
            fields = json.loads(text)
            version = fields["schema_version"]
            unknown = sorted(fields.keys() - {entry.name for entry in dataclasses.fields(cls)})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{origin} is not a manifest of this product: {error}") from error
        if version != SCHEMA_VERSION:
            raise DataError(f"{origin} has another schema version", received=version, allowed=[str(SCHEMA_VERSION)])
        if unknown:
            raise DataError(f"{origin} has unknown fields", received=unknown)
        try:
            return _built(cls, fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{origin} is not {cls.title}: {error}") from error


Record = TypeVar("Record")


def _built(cls: type[Record], fields: dict[str, Any]) -> Record:
    """An instance of a dataclass out of JSON values; absent ones are left to its defaults.

    Raises:
        TypeError, KeyError, AttributeError: A value is not what its field's annotation says.
    """
    hints = get_type_hints(cls)
    for name, value in fields.items():
        if not _fits(value, hints[name]):
            raise TypeError(f"{name} has a value of the wrong type")
    return cls(**{name: _converted(value, hints[name]) for name, value in fields.items()})


def _fits(value: object, expected: Any) -> bool:
    if expected is Any:
        return True
    origin, kinds = get_origin(expected), get_args(expected)
    if origin is UnionType:
        return any(_fits(value, kind) for kind in kinds)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(entry, kinds[1]) for entry in value.values())
    if origin is tuple:
        return isinstance(value, list)
    if expected is StoredFile:
        return isinstance(value, dict)
    # To isinstance True would be an int; a whole number is as good as a float.
    return type(value) in ((int, float) if expected is float else (expected,))


def _converted(value: Any, expected: Any) -> Any:
    if expected is StoredFile:
        return _built(StoredFile, value)
    if get_origin(expected) is tuple:
        return tuple(_converted(entry, get_args(expected)[0]) for entry in value)
    return value


@dataclass(frozen=True, kw_only=True)
class PromptsManifest(Manifest):
    """What `load_dataset` hands on."""

    title: ClassVar[str] = "a prompts manifest"

    fingerprint: str
    """Order-independent checksum of the rendered rows with their source columns."""
    rows: int
    rows_with_faults: int
    """Rows without a usable prompt; each says why in its column `fault`."""
    source_uri: str
    source_format: str
    source_revision: str | None
    """Commit of a hub dataset, or a digest of what was read from elsewhere."""
    parameters: dict[str, Any]
    """How the rows were read and rendered: a DatasetConfig as JSON, its address without secrets."""
    shards: tuple[StoredFile, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What a result's manifest says of its dataset."""
        return {
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "uri": self.source_uri,
            "revision": self.source_revision,
            "parameters": self.parameters,
        }


def reused_of(rows: int, completion_tokens: int) -> dict[str, int]:
    """The field `reused` of a result's manifest."""
    return {"rows": rows, "completion_tokens": completion_tokens}


@dataclass(frozen=True, kw_only=True)
class ResultManifest(Manifest):
    """What a finished result holds; a result exists when its manifest does."""

    title: ClassVar[str] = "a result manifest"

    created_at: str
    """UTC, ISO 8601."""
    output_format: str
    """`parquet`, `jsonl` or `openai`."""
    rows_in: int
    rows_out: int
    rows_by_status: dict[str, int]
    num_prompt_tokens: int
    num_completion_tokens: int
    keys_checksum: str
    """Checksum of the pairs (row_id, request_key) of all rows."""
    parts: tuple[StoredFile, ...]
    errors: tuple[StoredFile, ...]
    """The same rows as in the parts, those alone whose status is `invalid` or `failed`."""
    dataset: dict[str, Any]
    """Fingerprint, source, revision, rows and parameters of the prompts."""
    model: dict[str, Any]
    """Identifier, revision and digest of the weights."""
    sampling: dict[str, Any]
    engine: dict[str, Any]
    """Each setting with its value and its reason."""
    versions: dict[str, str]
    machine: dict[str, Any]
    is_partial: bool = False
    """Whether the deadline came first: `rows_out` of `rows_in` rows, `keys_checksum` of these."""
    errors_by_code: dict[str, int] = field(default_factory=dict)
    """Rows without an answer, by what was wrong."""
    retry_of: dict[str, Any] = field(default_factory=dict)
    """Address of the earlier result, and how many rows were taken over from it."""
    run_id: str = ""
    """As the column `provenance` of later results names this run."""
    reused: dict[str, int] = field(default_factory=lambda: reused_of(0, 0))
    """Rows whose answers earlier runs have made, and the tokens of these answers."""
    timings_seconds: dict[str, float] = field(default_factory=dict)
    estimate: dict[str, Any] = field(default_factory=dict)
    """What the run was expected to take, by generation/expectation.py, for comparison with what it took."""
