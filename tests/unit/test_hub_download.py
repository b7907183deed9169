"""A model that is fetched over the hub's protocol, as huggingface_hub speaks it."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.unit.test_model_resolving import COMMIT, CONFIG

IN_USE = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"w" * 300, "tokenizer.json": b"{}"}
FILES = IN_USE | {
    "README.md": b"# A model",
    "consolidated.safetensors": b"w" * 400,
    "checkpoint-5/model.safetensors": b"w" * 500,
    "pytorch_model.bin": b"w" * 600,
}
RESOLVE = """
import json
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.models.sizes import weight_bytes

size = weight_bytes("hf://org/name", "main")
model = resolve_model("hf://org/name", "main")
print(json.dumps([size, model.facts.weight_bytes, model.revision, str(model.folder)]))
"""


class Hub(BaseHTTPRequestHandler):
    """Tells of one repository, and serves its files at its one commit."""

    def do_HEAD(self) -> None:
        name = self.path.removeprefix(f"/org/name/resolve/{COMMIT}/")
        if name in FILES:
            etag = hashlib.sha256(FILES[name]).hexdigest()
            self._start(200, FILES[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self._start(404, b"", {})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/name/tree/"):
            self._tell([{"type": "file", "path": name, "size": len(FILES[name]), "oid": "0"} for name in FILES])
        elif path.startswith("/api/models/org/name/revision/"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in FILES.items()]
            self._tell({"id": "org/name", "sha": COMMIT, "siblings": siblings})
        else:
            self.do_HEAD()
            self.wfile.write(FILES.get(path.removeprefix(f"/org/name/resolve/{COMMIT}/"), b""))

    def _tell(self, facts: object) -> None:
        content = json.dumps(facts).encode()
        self._start(200, content, {"Content-Type": "application/json"})
        self.wfile.write(content)

    def _start(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hub_model_is_fetched_without_what_is_not_loaded(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    finished = subprocess.run([sys.executable, "-c", RESOLVE], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    planned, size, revision, folder = json.loads(finished.stdout)
    assert (planned, size, revision) == (300, 300, COMMIT)
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == IN_USE
