"""The part of Kubernetes' API that an Indexed Job meets: create, read, watch, delete, and the controller's rules.

Pods do not run; what becomes of each is told beforehand. Everything else is held against the protocol: manifests
against Kubernetes' schemas, names that are taken, versions of objects, watches that end, failures by the Job's policy.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

TOKEN = "token-of-the-pod"
NAMESPACE = "team-a"
KUBERNETES = "1.34"
EVICTED = "evicted"
_JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
_TICK = 0.02


class ApiServer(ThreadingHTTPServer):
    """Serves until it is closed.

    Attributes:
        outcomes: For an index what becomes of its pods one after another, an exit code or EVICTED; then they succeed.
        faults: Answers in place of the next ones: a status, or "drop" to close the connection.
        work: Called with an index when its pod succeeds.
        is_held: While it is set, no pod ends.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.outcomes: dict[int, list[int | str]] = defaultdict(list)
        self.faults: list[int | str] = []
        self.work: Callable[[int], None] = lambda index: None
        self.is_held = False
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.requests: list[str] = []
        self.deleted: list[dict[str, Any]] = []
        self.version = 0
        self.changed = threading.Condition()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def kubeconfig(self, folder: Path) -> Path:
        """A file that leads kubectl and its like here."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    def put(self, kind: str, job: dict[str, Any]) -> None:
        """Store a new version of a job and tell the watches."""
        with self.changed:
            self.version += 1
            job["metadata"]["resourceVersion"] = str(self.version)
            if kind == "DELETED":
                del self.jobs[job["metadata"]["name"]]
            else:
                self.jobs[job["metadata"]["name"]] = job
            self.events.append((self.version, kind, json.loads(json.dumps(job))))
            self.changed.notify_all()

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
        job["metadata"] |= {"namespace": NAMESPACE, "uid": f"uid-{self.version}"}
        job["status"] = {}
        self.put("ADDED", job)
        created: dict[str, Any] = json.loads(json.dumps(job))
        threading.Thread(target=_Controller(self, job).run, daemon=True).start()
        return created


class _Controller:
    """Does to a Job what Kubernetes would."""

    def __init__(self, server: ApiServer, job: dict[str, Any]) -> None:
        self._server = server
        self._job = job
        self._spec = job["spec"]
        self._waiting = list(range(self._spec["completions"]))
        self._failures: dict[int, int] = defaultdict(int)
        self._succeeded: list[int] = []
        self._failed: list[int] = []
        self._failed_pods = 0

    def run(self) -> None:
        if self._spec["suspend"]:
            return
        while self._waiting and self._exists():
            self._update({"active": min(len(self._waiting), self._spec["parallelism"])})
            time.sleep(_TICK)
            if self._server.is_held:
                continue
            for index in self._waiting[: self._spec["parallelism"]]:
                if self._end_pod(index) == "FailJob":
                    self._update({"conditions": [_condition("Failed", "PodFailurePolicy", f"index {index}")]})
                    return
        if self._exists():
            kind, reason = ("Failed", "FailedIndexes") if self._failed else ("Complete", "CompletionsReached")
            self._update({"conditions": [_condition(kind, reason, "")]})

    def _exists(self) -> bool:
        return self._server.jobs.get(self._job["metadata"]["name"]) is self._job

    def _end_pod(self, index: int) -> str:
        outcomes = self._server.outcomes[index]
        outcome = outcomes.pop(0) if outcomes else 0
        if outcome == 0:
            self._server.work(index)
            self._waiting.remove(index)
            self._succeeded.append(index)
            return "Succeeded"
        action = self._action(outcome)
        if action == "Count":
            self._failed_pods += 1
            self._failures[index] += 1
            if self._failures[index] > self._spec["backoffLimitPerIndex"]:
                self._waiting.remove(index)
                self._failed.append(index)
        return action

    def _action(self, outcome: int | str) -> str:
        for rule in self._spec["podFailurePolicy"]["rules"]:
            if "onPodConditions" in rule and outcome == EVICTED:
                return str(rule["action"])
            if "onExitCodes" in rule and outcome in rule["onExitCodes"]["values"]:
                return str(rule["action"])
        return "Count"

    def _update(self, changes: dict[str, Any]) -> None:
        status = {
            "succeeded": len(self._succeeded),
            "failed": self._failed_pods,
            "completedIndexes": ",".join(map(str, sorted(self._succeeded))),
            "failedIndexes": ",".join(map(str, sorted(self._failed))),
            **changes,
        }
        if status != self._job["status"]:
            self._job["status"] = status
            self._server.put("MODIFIED", self._job)


def _condition(kind: str, reason: str, message: str) -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        if (body := self._begin()) is None:
            return
        if body["metadata"]["name"] in self.server.jobs:
            self._fail(409, "AlreadyExists")
            return
        try:
            self._answer(201, self.server.create(body))
        except kubernetes_validate.ValidationError as error:
            self._fail(422, str(error))

    def do_GET(self) -> None:
        if self._begin() is None:
            return
        address = urlsplit(self.path)
        if address.path == _JOBS and (query := parse_qs(address.query)).get("watch") == ["True"]:
            self._watch(query)
            return
        job = self.server.jobs.get(address.path.removeprefix(f"{_JOBS}/"))
        self._answer(200, job) if job else self._fail(404, "NotFound")

    def do_DELETE(self) -> None:
        if (body := self._begin()) is None:
            return
        job = self.server.jobs.get(urlsplit(self.path).path.removeprefix(f"{_JOBS}/"))
        if job is None:
            self._fail(404, "NotFound")
            return
        self.server.deleted.append(
            {"name": job["metadata"]["name"], "query": urlsplit(self.path).query, **(body or {})}
        )
        self.server.put("DELETED", job)
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _begin(self) -> dict[str, Any] | None:
        """The request's body; None if it was answered by a fault."""
        self.server.requests.append(f"{self.command} {self.path}")
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else {}
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        elif isinstance(fault, int):
            self._fail(fault, "Fault")
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail(401, "Unauthorized")
        else:
            return dict(body or {})
        return None

    def _watch(self, query: dict[str, list[str]]) -> None:
        (name,) = [value.removeprefix("metadata.name=") for value in query["fieldSelector"]]
        seen, ends = int(query["resourceVersion"][0]), time.monotonic() + float(query["timeoutSeconds"][0])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while (left := ends - time.monotonic()) > 0:
            with self.server.changed:
                events = [event for event in self.server.events if event[0] > seen]
                if not events:
                    self.server.changed.wait(min(left, 0.2))
            for version, kind, job in events:
                seen = version
                if job["metadata"]["name"] == name:
                    self.wfile.write(json.dumps({"type": kind, "object": job}).encode() + b"\n")
                    self.wfile.flush()

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, reason: str) -> None:
        self._answer(
            status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
        )
