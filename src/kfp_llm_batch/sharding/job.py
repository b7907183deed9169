"""A job in shards as its pods find it: what there is to answer, and how; in the store beside the result.

    <output_uri>/shards/<id>/job.json              written once the prompts are there
                             prompts/00000.arrow   the rows of a shard
                             manifests/00000.json  what was answered of it, written last; the parts are the output's
                             failures/00000.json   why its last attempt ended
                             checkpoint/00000/     finished rows of a shard that is not answered yet
                             missing_rows.jsonl    what a merge was refused for

The merge removes all of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.provenance import Origin
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.storage.object_store import ObjectNotFoundError, ObjectStore, read_if_there
from kfp_llm_batch.storage.uris import join_uri

FOLDER = "shards"
FILE_NAME = "job.json"
SCHEMA_VERSION = 1
JOB_FIELD = "job"
"""Of a result's `dataset`: the id of the job in shards that it is the outcome of."""

_ADDRESS = re.compile(
    rf"(?P<job>(?P<output>.+)/{FOLDER}/(?P<id>[0-9a-f]{{16}}))(?:#(?P<shards>\d+(?:,\d+)*))?", re.DOTALL
)
_OWN_NAME = re.compile(
    r"job\.json|missing_rows\.jsonl|prompts/\d{5}\.arrow|(?:manifests|failures)/\d{5}\.json"
    r"|checkpoint/\d{5}/part-[0-9a-f]{32}\.parquet",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The share of the rows that one pod answers at a time."""

    rows: int
    tokens: int
    """Of its prompts."""
    bytes: int
    sha256: str
    """Of the file with its prompts."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What there is to answer, in which shards, and how."""

    dataset: Mapping[str, Any]
    """As in the result's manifest: fingerprint, rows, address, revision and parameters."""
    generation: Mapping[str, Any]
    """A GenerationConfig as JSON."""
    output_format: str
    output_overwrite: bool
    max_error_rate: float
    longest_prompt_tokens: int
    """Estimated, as are those of the shards."""
    shards: tuple[Shard, ...]
    reuse_uri: str | None = None
    """Where its answers go as well when a shard is finished, for later runs."""
    schema_version: int = SCHEMA_VERSION

    @cached_property
    def id(self) -> str:
        """Of this very job: another dataset, another split or another setting is another id."""
        # Whether another result may be replaced says nothing about the answers, nor does who made them.
        content = {**dataclasses.asdict(self), "output_overwrite": None, "max_error_rate": None}
        del content["reuse_uri"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def tokens(self) -> int:
        """Of all prompts, and of answers as long as they may be."""
        sampling = self.generation["sampling"]
        prompts = sum(shard.tokens for shard in self.shards)
        return int(sampling["n"] * (prompts + self.rows * sampling["max_tokens"]))

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(shard.rows for shard in self.shards)

    def to_json(self) -> str:
        """Indented, with sorted keys."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Self:
        """Parse a job; `origin` names it in errors.

        Raises:
            DataError: It is none, or one of another version.
        """
        try:
            fields = json.loads(text)
            if fields["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"its schema version is {fields['schema_version']}")
            return cls(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{origin} is not a job of this product: {error}") from error

    def generation_config(self, **changes: Any) -> GenerationConfig:
        """How the rows are answered, with what only the pod knows."""
        fields = dict(self.generation)
        sampling = dict(fields.pop("sampling"))
        return GenerationConfig(
            sampling=SamplingConfig(**{**sampling, "stop": tuple(sampling["stop"])}),
            max_error_rate=self.max_error_rate,
            rows_of_all_shards=self.rows,
            reuse_uri=self.reuse_uri,
            **{**fields, **changes},
        )


@dataclass(frozen=True, kw_only=True)
class JobAddress:
    """Where a job lies, and which of its shards are meant."""

    uri: str
    output_uri: str
    id: str
    shards: tuple[int, ...] | None = None
    """None means all that have no manifest yet."""

    @classmethod
    def of(cls, output_uri: str, job: Job) -> Self:
        """The address of a job below its output."""
        output_uri = output_uri.rstrip("/")
        return cls(uri=join_uri(output_uri, f"{FOLDER}/{job.id}"), output_uri=output_uri, id=job.id)

    @classmethod
    def parse(cls, address: str) -> Self:
        """An address as the pods get it, with or without numbers of shards behind "#".

        Raises:
            ConfigurationError: It is no address of a job.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise ConfigurationError(
                "Not the address of a job in shards",
                received=address,
                allowed=[f"OUTPUT/{FOLDER}/ID", f"OUTPUT/{FOLDER}/ID#0,4,8"],
            )
        numbers = match["shards"]
        shards = None if numbers is None else tuple(map(int, numbers.split(",")))
        return cls(uri=match["job"], output_uri=match["output"], id=match["id"], shards=shards)

    @property
    def origin(self) -> Origin:
        """The run as its answers name it."""
        return Origin.of(self.output_uri, job=self.id)

    def with_shards(self, numbers: Sequence[int]) -> str:
        """The address of some shards, as text."""
        return f"{self.uri}#{','.join(map(str, numbers))}"


class JobFolder:
    """The files of a job, in a store that is rooted at its address."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def read_job(self) -> Job | None:
        """The job, or None if it is not there whole."""
        data = read_if_there(self.store, FILE_NAME)
        return None if data is None else Job.from_json(data, f"{self.store.uri}/{FILE_NAME}")

    def job(self) -> Job:
        """The job; a DataError if it is not there."""
        if job := self.read_job():
            return job
        raise DataError(
            "There is no such job", received=self.store.uri, remedy="split_dataset writes it: start the run again."
        )

    def unanswered(self, shards: Iterable[int]) -> list[int]:
        """Those that are not finished."""
        return [shard for shard in shards if self.manifest(shard) is None]

    def manifest(self, shard: int) -> ResultManifest | None:
        """What was answered of a shard; None if it is not finished, or its manifest is damaged."""
        key = f"manifests/{shard:05d}.json"
        try:
            return ResultManifest.from_json(self.store.read(key), f"{self.store.uri}/{key}")
        except (ObjectNotFoundError, DataError):
            return None

    def save_manifest(self, shard: int, manifest: ResultManifest) -> None:
        """Declare a shard finished."""
        self.store.write(f"manifests/{shard:05d}.json", manifest.to_json().encode())
        self.store.delete(f"failures/{shard:05d}.json")

    def forget_manifest(self, shard: int) -> None:
        """Have a shard answered anew."""
        self.store.delete(f"manifests/{shard:05d}.json")

    def failure(self, shard: int) -> str | None:
        """Why the last attempt at a shard ended, if one did."""
        try:
            return str(json.loads(self.store.read(f"failures/{shard:05d}.json"))["message"])
        except (ObjectNotFoundError, ValueError, KeyError):
            return None

    def save_failure(self, shard: int, message: str) -> None:
        """Leave word for the merge."""
        self.store.write(f"failures/{shard:05d}.json", json.dumps({"message": message}).encode())

    def clear_checkpoint(self, shard: int) -> None:
        """Remove the parts of a shard that is finished."""
        for entry in self.store.list(f"checkpoint/{shard:05d}/"):
            if _OWN_NAME.fullmatch(entry.key):
                self.store.delete(entry.key)


def is_result_of(job_id: str, result: ResultManifest | None) -> bool:
    """Whether a result is the outcome of this very job."""
    return result is not None and not result.is_partial and result.dataset.get(JOB_FIELD) == job_id


def clear_job(output: ObjectStore, job_id: str) -> None:
    """Remove all of a job that is ours, its own file first: without it the rest means nothing."""
    # Below the output and not below the job, so that a local folder is removed with its last file.
    root = f"{FOLDER}/{job_id}/"
    output.delete(f"{root}{FILE_NAME}")
    for entry in output.list(root):
        if _OWN_NAME.fullmatch(entry.key.removeprefix(root)):
            output.delete(entry.key)


def prompts_key(shard: int) -> str:
    """The file with the prompts of a shard, below the job."""
    return f"prompts/{shard:05d}.arrow"


def checkpoint_uri(job_uri: str, shard: int) -> str:
    """Where the finished rows of a shard wait for the others."""
    return join_uri(job_uri, f"checkpoint/{shard:05d}")
