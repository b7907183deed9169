"""Real vLLM in the image, under the restrictions of a strict cluster."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.images.docker_images import IMAGES, LOCKED_DOWN, ROOT, Docker

SMOKE_TEST = ROOT / "images/vllm-cpu/smoke_test.py"
ROWS = 64
MAX_TOKENS = 32


@pytest.fixture(scope="module")
def mounts(model_mount: str) -> tuple[str, ...]:
    """The model and the job, both read-only."""
    return (f"--volume={model_mount}:/model:ro", f"--volume={SMOKE_TEST}:/smoke_test.py:ro")


@pytest.mark.timeout(600)
def test_a_job_in_three_gigabytes(docker: Docker, mounts: tuple[str, ...]) -> None:
    limits = ("--memory=3g", "--memory-swap=3g", "--cpus=1.5")
    facts = _run(docker, *LOCKED_DOWN, *limits, *mounts)
    assert facts["rows"] == {
        "ok": facts["rows"]["ok"],
        "truncated": ROWS - 1 - facts["rows"]["ok"],
        "invalid": 1,
        "failed": 0,
    }
    assert facts["problems"] == []
    assert facts["machine"]["cpu_quota"] == 1.5
    assert facts["machine"]["memory_limit_bytes"] == 3 * 2**30
    assert facts["engine"]["environment"]["OMP_NUM_THREADS"]["value"] == "1"
    preloaded = facts["engine"]["environment"]["LD_PRELOAD"]["value"]
    assert "libtcmalloc_minimal.so.4" in preloaded
    seen = ("timings_seconds", "num_completion_tokens", "seconds_since_process_start", "processor_periods")
    print(json.dumps({name: facts[name] for name in seen}))


def test_a_pod_too_small_is_refused_before_weights_load(docker: Docker, mounts: tuple[str, ...]) -> None:
    limits = ("--memory=1g", "--memory-swap=1g", "--cpus=1.5")
    finished = docker("run", "--rm", *LOCKED_DOWN, *limits, *mounts, IMAGES["vllm-cpu"], *_command())
    assert finished.returncode == 2, finished.stderr
    assert "ConfigurationError: Not enough memory" in finished.stderr
    assert "Raise resources_memory by" in finished.stderr
    assert "Loading" not in finished.stderr


def _run(docker: Docker, *options: str) -> dict[str, Any]:
    finished = docker("run", "--rm", *options, IMAGES["vllm-cpu"], *_command(), timeout=580)
    assert finished.returncode == 0, finished.stderr
    facts: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return facts


def _command() -> list[str]:
    return ["python3", f"/{Path(SMOKE_TEST).name}", "/model", str(ROWS), str(MAX_TOKENS)]
