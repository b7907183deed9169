"""The compiled pipeline with every step in a container of the image, as `run --runner docker` does it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_llm_batch.images import VLLM_CPU_IMAGE
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.storage.object_store import open_store
from tests.images.docker_images import Docker

COMMAND = str(Path(sys.executable).with_name("kfp-llm-batch"))
ROWS = [{"id": f"q{index}", "question": f"What is {index} plus {index}?"} for index in range(16)]


@pytest.mark.timeout(900)
def test_batch_inference_from_store_to_store(docker: Docker, s3_uri: str) -> None:
    store = open_store(s3_uri)
    store.write("questions.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    for path in resolve_model("demo://smollm2-135m-instruct").folder.iterdir():
        if not path.name.startswith("."):
            store.upload(path, f"model/{path.name}")
    parameters = {
        "dataset_uri": f"{s3_uri}/questions.jsonl",
        "prompt_template": "{{ question }}",
        "model_uri": f"{s3_uri}/model",
        "generation_max_tokens": 16,
        "output_uri": f"{s3_uri}/result",
        "storage_endpoint": os.environ["KFP_LLM_BATCH_S3_ENDPOINT"],
        "runtime_image": VLLM_CPU_IMAGE,
    }
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}={value}")]
    finished = subprocess.run(
        [COMMAND, "run", "batch_inference", "--runner", "docker", *given],
        capture_output=True,
        text=True,
        check=False,
        timeout=880,
    )
    assert finished.returncode == 0, finished.stderr
    report = audit_result(f"{s3_uri}/result")
    assert (report.problems, report.rows) == ((), len(ROWS))
