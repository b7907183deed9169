"""The step `merge_shards`: many shards become one result, if together they hold every row of the dataset once.

No part is moved: the pods have put them where they belong. What is written is the result's manifest.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kfp_llm_batch.errors import ResultError
from kfp_llm_batch.generation.error_budget import ErrorBudget
from kfp_llm_batch.manifests import Checksum, ResultManifest
from kfp_llm_batch.results.ownership import check_ownership, stored_sizes
from kfp_llm_batch.results.stored_result import (
    check_replaceable,
    parse_manifest,
    remove_leftovers,
    set_manifest,
    stored_manifest,
)
from kfp_llm_batch.sharding.job import JOB_FIELD, Job, JobAddress, JobFolder, clear_job, is_result_of
from kfp_llm_batch.sharding.missing import missing_shards_error
from kfp_llm_batch.storage.object_store import LONG_PATIENCE_SECONDS, ObjectStore, open_store

_LOG = logging.getLogger("kfp_llm_batch")


def merge_shards(address: JobAddress) -> ResultManifest:
    """Publish the result of a job whose shards are all answered; a second time it is the same result.

    Returns:
        The manifest of the result that stands there now.

    Raises:
        IncompleteRunError: Shards are missing; the message names them and their rows.
        ResultError: What the shards say and what is stored do not agree.
        DataError, EngineError: More rows have no answer than may.
        ConfigurationError: Another result stands at the output.
        StorageError: The store does not answer or refuses.
    """
    store = open_store(address.output_uri, patience_seconds=LONG_PATIENCE_SECONDS)
    folder = JobFolder(open_store(address.uri, patience_seconds=LONG_PATIENCE_SECONDS))
    while True:
        replaced = stored_manifest(store)
        live = None if replaced is None else parse_manifest(store, replaced)
        if live is not None and is_result_of(address.id, live):
            break
        result = _merged(folder, store, live)
        if set_manifest(store, result, replaced):
            live = result
            break
    remove_leftovers(store)
    clear_job(store, address.id)
    _LOG.info("%d rows are at %s", live.rows_out, store.uri)
    return live


def _merged(folder: JobFolder, store: ObjectStore, live: ResultManifest | None) -> ResultManifest:
    job = folder.job()
    check_ownership(store)
    check_replaceable(live, store.uri, overwrite=job.output_overwrite)
    found = {number: folder.manifest(number) for number in range(len(job.shards))}
    if missing := [number for number, manifest in found.items() if manifest is None]:
        raise missing_shards_error(folder, job, missing)
    manifests = [manifest for manifest in found.values() if manifest is not None]
    _check_coverage(folder, job, manifests, stored_sizes(store))
    _check_budget(job, manifests)
    return _sum(job, manifests)


def _check_coverage(
    folder: JobFolder, job: Job, manifests: Sequence[ResultManifest], stored: Mapping[str, int]
) -> None:
    """Hold every shard against the job, against the store, and against the newest one.

    Raises:
        ResultError: Something does not fit; the shards in question are then no longer finished.
    """
    model = max(manifests, key=lambda manifest: manifest.created_at).model.get("digest")
    problems: list[str] = []
    for number, (shard, manifest) in enumerate(zip(job.shards, manifests, strict=True)):
        files = (*manifest.parts, *manifest.errors)
        claims = {
            "dataset": (shard.sha256, manifest.dataset.get("fingerprint")),
            "rows in": (shard.rows, manifest.rows_in),
            "rows out": (shard.rows, manifest.rows_out),
            "rows of its parts": (shard.rows, sum(part.rows for part in manifest.parts)),
            "format": (job.output_format, manifest.output_format),
            "model": (model, manifest.model.get("digest")),
            **{file.path: (file.bytes, stored.get(file.path)) for file in files},
        }
        wrong = {name: claim for name, claim in claims.items() if claim[0] != claim[1]}
        problems += [f"shard {number}: {name} should be {claim[0]}, is {claim[1]}" for name, claim in wrong.items()]
        if wrong:
            folder.forget_manifest(number)
    if problems:
        raise ResultError(
            f"The shards do not make up the dataset ({len(problems)} problems): {'; '.join(problems[:10])}",
            remedy="Start the same run again: these shards are answered anew.",
        )


def _check_budget(job: Job, manifests: Sequence[ResultManifest]) -> None:
    budget = ErrorBudget(job.max_error_rate, job.rows)
    for manifest in manifests:
        budget.take(manifest.rows_by_status, manifest.errors_by_code)
    budget.check_finished(job.rows)


def _sum(job: Job, manifests: Sequence[ResultManifest]) -> ResultManifest:
    keys = Checksum()
    for manifest in manifests:
        keys.include(manifest.keys_checksum, manifest.rows_out)
    first = manifests[0]
    return ResultManifest(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        output_format=job.output_format,
        rows_in=job.rows,
        rows_out=sum(manifest.rows_out for manifest in manifests),
        rows_by_status=_added(manifest.rows_by_status for manifest in manifests),
        errors_by_code=_added(manifest.errors_by_code for manifest in manifests),
        num_prompt_tokens=sum(manifest.num_prompt_tokens for manifest in manifests),
        num_completion_tokens=sum(manifest.num_completion_tokens for manifest in manifests),
        keys_checksum=keys.hexdigest(),
        parts=tuple(part for manifest in manifests for part in manifest.parts),
        errors=tuple(file for manifest in manifests for file in manifest.errors),
        dataset={**job.dataset, JOB_FIELD: job.id, "shards": len(manifests)},
        model=first.model,
        sampling=first.sampling,
        engine=first.engine,
        versions=_versions(manifests),
        machine=first.machine,
        run_id=first.run_id,
        reused=_added(manifest.reused for manifest in manifests),
        timings_seconds=_added(manifest.timings_seconds for manifest in manifests),
    )


def _added(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums by name; of seconds, those of all pods together."""
    total: Counter[str] = Counter()
    for entry in counts:
        total.update(entry)
    return {name: round(value, 3) for name, value in total.items()}


def _versions(manifests: Sequence[ResultManifest]) -> dict[str, str]:
    """Each package's version, all of them where pods had different ones."""
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for name, version in manifest.versions.items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}
