"""What a pod does: its shards one after another, in a process of their own that is tried again when it dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from kfp_llm_batch import termination
from kfp_llm_batch.errors import (
    TERMINATION_LOG_VARIABLE,
    BatchError,
    ConfigurationError,
    DataError,
    EngineError,
    InterruptedRunError,
    as_message,
    parse_message,
)
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.publishing import existing_result
from kfp_llm_batch.sharding.job import JobAddress, JobFolder, is_result_of
from kfp_llm_batch.storage.object_store import LONG_PATIENCE_SECONDS, open_store

_LOG = logging.getLogger("kfp_llm_batch")

ATTEMPTS = 3
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 25.0
"""Of the 30 that a pod has after SIGTERM."""


def answer_shards(address: JobAddress, engine_cache: Path | None) -> dict[int, ResultManifest]:
    """Answer the shards of `address`, or all that have no manifest yet.

    A shard that fails every time is left to a later pass, and its failure noted for the merge: a failed pod would
    keep Kubeflow from starting the others.

    Returns:
        The manifests of the shards that are answered, by number.

    Raises:
        ConfigurationError, DataError: What is wrong would be wrong in every other attempt as well.
        InterruptedRunError: SIGTERM has come.
    """
    if is_result_of(address.id, existing_result(address.output_uri)):
        _LOG.info("The result at %s is that of this very job.", address.output_uri)
        return {}
    folder = JobFolder(open_store(address.uri, patience_seconds=LONG_PATIENCE_SECONDS))
    numbers = _wanted(folder, address)
    with termination.Termination():
        _answer(folder, address, folder.unanswered(numbers), engine_cache)
    found = {number: folder.manifest(number) for number in numbers}
    return {number: manifest for number, manifest in found.items() if manifest is not None}


def _wanted(folder: JobFolder, address: JobAddress) -> list[int]:
    if address.shards is not None:
        return list(address.shards)
    shards = len(folder.job().shards)
    missing = folder.unanswered(range(shards))
    _LOG.info("%d of %d shards have no manifest: %s.", len(missing), shards, missing or "none is left")
    return missing


def _answer(folder: JobFolder, address: JobAddress, numbers: list[int], engine_cache: Path | None) -> None:
    attempts: Counter[int] = Counter()
    while numbers:
        termination.check()
        error = _attempt(address.with_shards(numbers), engine_cache)
        numbers = folder.unanswered(numbers)
        if error is None or not numbers:
            return
        if isinstance(error, ConfigurationError | DataError | InterruptedRunError):
            raise error
        # They are answered in this order: the first without a manifest is the one that failed.
        attempts[numbers[0]] += 1
        _LOG.warning("Shard %d failed, attempt %d of %d: %s", numbers[0], attempts[numbers[0]], ATTEMPTS, error)
        if attempts[numbers[0]] == ATTEMPTS:
            folder.save_failure(numbers.pop(0), as_message(error))


def _attempt(shards_uri: str, engine_cache: Path | None) -> BatchError | None:
    command = [sys.executable, "-m", "kfp_llm_batch.sharding.answering", shards_uri, str(engine_cache or "")]
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", prefix="kfp-llm-batch-") as message:
        process = subprocess.Popen(command, env={**os.environ, TERMINATION_LOG_VARIABLE: message.name})
        try:
            code = _wait(process)
        finally:
            process.kill()
            process.wait()
        return None if code == 0 else parse_message(message.read()) or _died(code)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Exit code of the process, which hears of SIGTERM when this one does."""
    is_told, ends = False, float("inf")
    while (code := process.poll()) is None:
        if not is_told and termination.is_requested():
            process.send_signal(signal.SIGTERM)
            is_told, ends = True, time.monotonic() + _GRACE_SECONDS
        if time.monotonic() > ends:
            raise InterruptedRunError("The run was interrupted", remedy="The same run again goes on.")
        time.sleep(_POLL_SECONDS)
    return code


def _died(code: int) -> BatchError:
    if code >= 0:
        return BatchError(f"Its process ended with exit code {code}: a defect", remedy="Look at its log.")
    name = signal.Signals(-code).name
    return EngineError(
        f"Its process was killed by {name}",
        remedy="SIGKILL is most often the pod's memory limit: raise resources_memory." if name == "SIGKILL" else "",
    )
