"""The baseline: a small object in a store that points to one evaluated run, and moves only when it is told to.

{"kind": "baseline", "evaluation_uri": "s3://results/gsm8k/2f6c/evaluation", "manifest_sha256": "...", ...}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.errors import ConfigurationError, ResultError
from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.manifests import FILE_NAME, Manifest
from kfp_llm_batch.storage.object_store import ObjectNotFoundError, ObjectStore, open_store, read_if_there
from kfp_llm_batch.storage.protocol import check_key
from kfp_llm_batch.storage.uris import STORE_SCHEMES, redact, split_uri

KIND = "baseline"


@dataclass(frozen=True, kw_only=True)
class Baseline(Manifest):
    """Which run is the baseline."""

    title: ClassVar[str] = "the pointer of a baseline"

    kind: str = KIND
    evaluation_uri: str
    """Folder with the scores and the manifest of the run."""
    manifest_sha256: str
    """Of that manifest, so that nothing else can take the run's place."""
    promoted_at: str
    """UTC, ISO 8601."""
    reason: str
    """What moved the pointer here."""
    previous_uri: str | None
    """Where it pointed before."""

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise TypeError(f"its kind is {self.kind!r}, not {KIND!r}")


class BaselinePointer:
    """The object at `baseline_uri`.

    Args:
        uri: Its address; the last part names the object.

    Raises:
        ConfigurationError: The address is none of an object.
    """

    def __init__(self, uri: str) -> None:
        scheme, rest = split_uri(uri, STORE_SCHEMES)
        folder, slash, self._key = uri.rpartition("/")
        if not self._key or (scheme != "file" and "/" not in rest):
            raise ConfigurationError(
                "baseline_uri names no object", received=redact(uri), allowed=["s3://bucket/baselines/gsm8k.json"]
            )
        self._store = open_store((folder or "/") if slash else ".")
        self.uri = redact(uri)

    def read(self) -> Baseline | None:
        """Which run is the baseline; None before the first promotion."""
        stored = read_if_there(self._store, self._key)
        return None if stored is None else Baseline.from_json(stored, self.uri)

    def promote(self, evaluation_uri: str, reason: str) -> Baseline:
        """Point to a run, which must be there and whole.

        Raises:
            ResultError: There is no evaluation at `evaluation_uri`.
            ConfigurationError: Someone else moved the pointer at the same moment.
        """
        evaluation = open_store(evaluation_uri)
        manifest = read_evaluation_manifest(evaluation)
        stored = read_if_there(self._store, self._key)
        before = None if stored is None else Baseline.from_json(stored, self.uri)
        earlier = before.evaluation_uri if before else None
        if before and earlier == evaluation.uri:  # promoted again, by a step that was repeated
            earlier = before.previous_uri
        target = Baseline(
            evaluation_uri=evaluation.uri,
            manifest_sha256=hashlib.sha256(manifest).hexdigest(),
            promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
            reason=reason,
            previous_uri=earlier,
        )
        data = target.to_json().encode()
        is_written = (
            self._store.write(self._key, data, only_if_absent=True)
            if stored is None
            else self._store.replace(self._key, stored, data)
        )
        if not is_written:
            raise ConfigurationError(
                "The baseline was moved by someone else at the same moment",
                received=self.uri,
                remedy="Look at what it points to now, then promote again if it is still right.",
            )
        return target


def read_evaluation_manifest(store: ObjectStore) -> bytes:
    """The manifest of the evaluation in `store`, checked to be one.

    Raises:
        ResultError: There is none.
    """
    try:
        data = store.read(FILE_NAME)
    except ObjectNotFoundError as error:
        raise ResultError(
            f"There is no evaluation at {store.uri}", remedy=f"An evaluation has a {FILE_NAME}, written last."
        ) from error
    EvaluationManifest.from_json(data, f"{store.uri}/{FILE_NAME}")
    return data


@contextmanager
def fetched_baseline(baseline: Baseline) -> Iterator[EvaluatedRun]:
    """The baseline's run in a temporary folder.

    Raises:
        ResultError: It is gone, or not the one that was promoted.
    """
    store = open_store(baseline.evaluation_uri)
    data = read_evaluation_manifest(store)
    if hashlib.sha256(data).hexdigest() != baseline.manifest_sha256:
        raise ResultError(
            "The baseline's evaluation is not the one that was promoted: its manifest was written anew",
            received=baseline.evaluation_uri,
            remedy="Promote the run that is to be the baseline.",
        )
    with temporary_folder() as folder:
        (folder / FILE_NAME).write_bytes(data)
        name = check_key(EvaluationManifest.from_json(data, store.uri).scores.path)
        try:
            store.download(name, folder / name)
        except ObjectNotFoundError as error:
            raise ResultError(
                f"The baseline's scores are gone: {error}", remedy="Promote the run that is to be the baseline."
            ) from error
        yield EvaluatedRun(folder)
