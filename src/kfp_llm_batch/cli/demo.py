"""The main job in small: a dataset, real vLLM, a real object store, and the audit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset
from kfp_llm_batch.cli.local_run import run_pipeline
from kfp_llm_batch.cli.result_summary import print_first_answers, print_summary
from kfp_llm_batch.errors import ResultError
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.shipped import load_pipeline
from kfp_llm_batch.storage.embedded_store import EmbeddedStore

OUTPUT_URI = "s3://results/demo"


def run_demo(folder: Path) -> None:
    """Make the dataset, start the store, run `batch_inference`, show and verify the result, stop the store.

    Raises:
        BatchError: A step failed, or the result does not verify.
    """
    started = time.monotonic()
    dataset = folder / "questions.jsonl"
    write_demo_dataset(dataset)
    print(f"dataset: {dataset}, 300 questions, one of them empty on purpose")
    with EmbeddedStore(folder / "store") as store:
        print(f"store:   SeaweedFS at {store.endpoint}")
        os.environ.update(store.environment())
        pipeline = load_pipeline("batch_inference")
        run_pipeline(pipeline, _arguments(dataset), in_docker=False, keep=None, verbose=False)
        print_first_answers(OUTPUT_URI, ["row_id", "status", "question", "completion", "answer"], rows=5)
        print_summary(OUTPUT_URI)
        report = audit_result(OUTPUT_URI)
        print(report.to_text())
        if not report.ok:
            raise ResultError("The demo's result does not verify", received=OUTPUT_URI)
    print(f"The demo took {time.monotonic() - started:.0f} s; its objects stay in {folder / 'store'}.")


def _arguments(dataset: Path) -> dict[str, Any]:
    return {
        "dataset_uri": str(dataset),
        "dataset_id_column": "id",
        "prompt_template": "{{ question }}",
        "model_uri": "demo://smollm2-135m-instruct",
        "generation_max_tokens": 48,
        "output_uri": OUTPUT_URI,
        "output_overwrite": True,
    }
