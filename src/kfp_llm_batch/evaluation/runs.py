"""The folder of one run of the pipeline `evaluation`: where it lies, what is checked before it starts, how it ended."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.errors import ConfigurationError, StorageError
from kfp_llm_batch.evaluation.baselines import BaselinePointer, read_evaluation_manifest
from kfp_llm_batch.evaluation.comparing import COMPARISON, REPORT, ComparisonConfig
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.history import EVALUATION_FOLDER
from kfp_llm_batch.evaluation.manifest import EvaluationManifest
from kfp_llm_batch.manifests import FILE_NAME
from kfp_llm_batch.results.publishing import check_destination
from kfp_llm_batch.storage.object_store import ObjectStore, open_store, read_if_there
from kfp_llm_batch.storage.uris import join_uri, redact

SUMMARY = "summary.json"
WEBHOOK_VARIABLE = "KFP_LLM_BATCH_WEBHOOK_URL"
_WEBHOOK_SECONDS = 20.0
_LOG = logging.getLogger("kfp_llm_batch")


def prepare_run(evaluation: EvaluationConfig, comparison: ComparisonConfig, prompts_folder: Path | None) -> None:
    """Prove, before hours of work, that what comes after the generation can be done.

    Args:
        evaluation: Checked by being made.
        comparison: Its baseline is read; to the folder of its run a small object is written, read and deleted.
        prompts_folder: What `load_dataset` wrote; must have the columns that `evaluation` names.

    Raises:
        BatchError: See errors.py.
    """
    if prompts_folder is not None:
        evaluation.check_columns({column.name: column.type for column in Prompts(prompts_folder).source_fields})
    names = [metric.name for named in evaluation.made_scorers for metric in named.metrics]
    check_destination(str(comparison.run_uri))
    if comparison.baseline_uri:
        baseline = BaselinePointer(comparison.baseline_uri).read()
        if baseline is None:
            _LOG.info("There is no baseline at %s yet.", redact(comparison.baseline_uri))
        else:
            read_evaluation_manifest(open_store(baseline.evaluation_uri))
            _LOG.info("The baseline is %s.", baseline.evaluation_uri)
    _LOG.info("The rows will be measured by %s.", ", ".join(names))


def summarize_run(output_uri: str, run_id: str, status: Mapping[str, Any]) -> dict[str, Any]:
    """Write how the run ended, however it ended, and post it where a webhook is named.

    Args:
        output_uri: Folder of all runs.
        run_id: Names the run's.
        status: State and error of the pipeline, as Kubeflow tells them.

    Raises:
        StorageError: The store does not answer or refuses.
        ConfigurationError: The webhook's address is none.
    """
    store = open_store(join_uri(output_uri, run_id))
    summary = {
        "schema_version": 1,
        "run_id": run_id,
        "run_uri": store.uri,
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": status.get("state"),
        "error": status.get("error"),
        **evaluation_facts(store),
    }
    store.write(SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    if webhook := os.environ.get(WEBHOOK_VARIABLE):
        _post(webhook, summary)
    return summary


def evaluation_facts(store: ObjectStore) -> dict[str, Any]:
    """Outcome, report and metrics of the run in `store`; empty if it did not come so far."""
    compared = read_if_there(store, f"{EVALUATION_FOLDER}/{COMPARISON}")
    comparison = {} if compared is None else json.loads(compared)
    if (data := read_if_there(store, f"{EVALUATION_FOLDER}/{FILE_NAME}")) is None:
        return {"outcome": None, "reason": None, "report_uri": None, "metrics": []}
    manifest = EvaluationManifest.from_json(data, store.uri)
    return {
        "outcome": comparison.get("outcome"),
        "reason": comparison.get("decision", {}).get("reason"),
        "report_uri": join_uri(store.uri, f"{EVALUATION_FOLDER}/{REPORT}"),
        "metrics": list(manifest.metrics),
    }


def _post(webhook: str, summary: Mapping[str, Any]) -> None:
    if urlsplit(webhook).scheme not in ("http", "https"):
        raise ConfigurationError(
            f"{WEBHOOK_VARIABLE} is no address of the web", remedy="Correct the key webhook of the storage secret."
        )
    outcome = summary["outcome"] or summary["state"]
    body = {"text": f"Evaluation {summary['run_id']}: {outcome}. {summary['reason'] or ''}".strip(), **summary}
    try:
        requests.post(webhook, json=body, timeout=_WEBHOOK_SECONDS).raise_for_status()
    except requests.RequestException as error:
        # The address itself is a secret: whoever knows it can post.
        raise StorageError(f"The webhook did not take the summary: {type(error).__name__}") from None
