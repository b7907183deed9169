"""The image as a server, asked as KServe and its clients ask, and a batch job through it."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.results.audit import audit_result
from tests.conftest import MakePrompts
from tests.images.docker_images import IMAGES, LOCKED_DOWN, Docker

MODEL = "demo://smollm2-135m-instruct"
READY_SECONDS = 180.0
ROWS = 16


@pytest.fixture(scope="module")
def url(docker: Docker, model_mount: str) -> Iterator[str]:
    """A container that serves the demo model, mounted where KServe mounts it, with the limits of a pod."""
    name = f"kfp-llm-batch-{uuid.uuid4().hex[:8]}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    restrictions = [option for option in LOCKED_DOWN if not option.startswith("--network")]
    mount = f"--volume={model_mount}:/mnt/models:ro"
    limits = ("--network=host", "--memory=4g", "--memory-swap=4g", "--cpus=2")
    command = ("kfp-llm-batch", "serve", "--model_name=smollm2", f"--http_port={port}", "--context=1024")
    started = docker("run", "--detach", f"--name={name}", *restrictions, *limits, mount, IMAGES["vllm-cpu"], *command)
    assert started.returncode == 0, started.stderr
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(docker, name, address)
        yield address
        assert docker("stop", "--time=60", name).returncode == 0
        assert docker("inspect", "--format={{.State.ExitCode}}", name).stdout.strip() in ("0", "143"), _log(
            docker, name
        )
    finally:
        docker("rm", "--force", name)


def _wait_until_ready(docker: Docker, name: str, address: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if requests.get(f"{address}/v2/health/ready", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        state = docker("inspect", "--format={{.State.Running}}", name).stdout.strip()
        assert state == "true", _log(docker, name)
        assert time.monotonic() < deadline, _log(docker, name)
        time.sleep(0.5)


def _log(docker: Docker, name: str) -> str:
    found = docker("logs", "--tail=60", name)
    return found.stdout + found.stderr


@pytest.mark.timeout(300)
def test_paths_of_kserve(url: str) -> None:
    assert requests.get(f"{url}/v2/health/live", timeout=30).ok
    assert "vllm:num_requests_running" in requests.get(f"{url}/metrics", timeout=30).text
    assert [model["id"] for model in requests.get(f"{url}/openai/v1/models", timeout=30).json()["data"]] == ["smollm2"]
    asked = {"model": "smollm2", "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 8}
    answer = requests.post(f"{url}/openai/v1/chat/completions", json=asked, timeout=120).json()
    assert answer["choices"][0]["message"]["content"]


@pytest.mark.timeout(300)
def test_a_batch_job_through_the_server(url: str, make_prompts: MakePrompts, tmp_path: Path) -> None:
    rows = [{"question": f"What is {index} plus {index}?"} for index in range(ROWS)]
    config = GenerationConfig(
        model_uri=MODEL, sampling=SamplingConfig(max_tokens=16), engine_options={"url": url, "max_num_seqs": 4}
    )
    manifest = generate(config, make_prompts(rows), tmp_path / "result")
    assert manifest.rows_by_status["failed"] == 0
    assert manifest.rows_out == ROWS
    assert audit_result(str(tmp_path / "result")).problems == ()
    assert 0 < manifest.num_completion_tokens <= 16 * ROWS
