"""llama.cpp's own server, built from the sources that llama-cpp-python carries, with bf16 weights.

The server of llama-cpp-python itself answers one request at a time; this one batches.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job, Outcome, serve, since_start

_REQUIREMENTS = Path(__file__).with_name("llama_cpp.txt")
_SLOTS = 64
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
)


def prepare(model: Path, folder: Path) -> None:
    """Build the server for this very processor, and convert the model."""
    build, weights = folder / "build", folder / "model-bf16.gguf"
    if not (build / "bin/llama-server").exists():
        source = _source(folder)
        subprocess.run(["cmake", "-S", str(source), "-B", str(build), *_OPTIONS], check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "llama-server", "-j", "2"], check=True)
    if not weights.exists():
        script = _source(folder) / "convert_hf_to_gguf.py"
        made = weights.with_suffix(".partial")
        subprocess.run(
            [sys.executable, str(script), str(model), "--outtype", "bf16", "--outfile", str(made)], check=True
        )
        made.rename(weights)


def _source(folder: Path) -> Path:
    """Folder of llama.cpp's sources, unpacked."""
    downloads, unpacked = folder / "downloads", folder / "source"
    if not unpacked.exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python"]
        subprocess.run([*pip, "-r", str(_REQUIREMENTS), "-d", str(downloads)], check=True)
        with tarfile.open(next(downloads.glob("*.tar.gz"))) as archive:
            archive.extractall(unpacked, filter="data")
    return next(unpacked.glob("**/vendor/llama.cpp"))


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run."""
    slots = min(_SLOTS, len(job.prompts))
    longest = max(map(len, job.prompts)) + job.max_tokens
    settings = {"slots": slots, "threads": job.threads, "context": slots * longest, "weights": "bf16"}
    with _server(prepared, settings) as port:
        loaded, started = since_start(), time.monotonic()
        with ThreadPoolExecutor(slots) as pool:
            answers = list(pool.map(lambda ids: _ask(port, ids, job.max_tokens, started), job.prompts))
        seconds = time.monotonic() - started
    return Outcome(
        versions={"llama-cpp-python": _REQUIREMENTS.read_text(encoding="utf-8").split("==")[1].strip()},
        settings=settings,
        load_seconds=loaded,
        generate_seconds=seconds,
        first_row_seconds=min(answer["seconds"] for answer in answers),
        prompt_tokens=sum(map(len, job.prompts)),
        tokens=[answer["tokens_predicted"] for answer in answers],
        texts=[answer["content"] for answer in answers],
    )


@contextmanager
def _server(prepared: Path, settings: dict[str, Any]) -> Iterator[int]:
    """A running server's port; the server ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "-m": prepared / "model-bf16.gguf",
        "--port": port,
        "-np": settings["slots"],
        "-c": settings["context"],
        "-t": settings["threads"],
        "-tb": settings["threads"],
    }
    flags = itertools.chain.from_iterable((name, str(value)) for name, value in options.items())
    with subprocess.Popen([str(prepared / "build/bin/llama-server"), *flags]) as process:
        try:
            _wait_until_ready(port, process)
            yield port
        finally:
            process.terminate()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            if _request(port, "GET", "/health", None)[0] == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"llama-server ended with {process.returncode}")


def _ask(port: int, ids: list[int], max_tokens: int, started: float) -> dict[str, Any]:
    body = {"prompt": ids, "n_predict": max_tokens, "temperature": 0.0, "cache_prompt": True}
    status, answer = _request(port, "POST", "/completion", json.dumps(body))
    if status != http.HTTPStatus.OK:
        raise SystemExit(f"llama-server answered {status}: {answer[:200]!r}")
    return {**json.loads(answer), "seconds": time.monotonic() - started}


def _request(port: int, method: str, path: str, body: str | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


if __name__ == "__main__":
    serve(run, prepare)
