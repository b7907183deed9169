"""A server that speaks OpenAI's protocol for completions, and answers by rule unless it is told to misbehave."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from kfp_llm_batch.engine.echo import EchoEngine
from kfp_llm_batch.engine.messages import GenerationRequest

Misbehaviour = tuple[int, Mapping[str, str]]
"""Status and headers in place of an answer; status 0 closes the connection."""


class CompletionsServer:
    """Use as a context manager; `url` is its address.

    Args:
        port: 0 takes a free one.
    """

    def __init__(self, port: int = 0) -> None:
        self.troubles: deque[Misbehaviour] = deque()
        """What the next requests get."""
        self.faults: dict[str, Misbehaviour] = {}
        """What requests get each time, by a text of theirs."""
        self.bodies: list[dict[str, Any]] = []
        self.answers_left = 10**9
        """After which nobody is let in."""
        self.headers: list[Mapping[str, str]] = []
        self.most_at_once = self.at_once = 0
        self.company_seconds = 0.0
        """How long the first requests wait for a second one to be there as well."""
        self.has_company = threading.Event()
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"state": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def trouble_for(self, body: Mapping[str, Any]) -> Misbehaviour | None:
        """What this request gets in place of an answer."""
        text = bytes(token for token in body["prompt"] if token < 256).decode()
        with self.lock:
            if self.troubles:
                return self.troubles.popleft()
            found = next((trouble for word, trouble in self.faults.items() if word in text), None)
            self.answers_left -= found is None
            return found or ((401, {}) if self.answers_left < 0 else None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: CompletionsServer

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "echo", "object": "model"}]}, {})

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.bodies.append(body)
            state.headers.append(dict(self.headers))
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
            if state.at_once > 1:
                state.has_company.set()
        state.has_company.wait(state.company_seconds)
        try:
            self._answer(body)
        finally:
            with state.lock:
                state.at_once -= 1

    def _answer(self, body: Mapping[str, Any]) -> None:
        trouble = self.state.trouble_for(body)
        if trouble is None:
            self._send(200, _completion(body), {})
        elif trouble[0] == 0:
            self.close_connection = True
        else:
            self._send(trouble[0], {"error": {"message": "as told", "code": trouble[0]}}, trouble[1])

    def _send(self, status: int, content: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _completion(body: Mapping[str, Any]) -> dict[str, Any]:
    engine = EchoEngine()
    engine.add(GenerationRequest(request_id=0, token_ids=body["prompt"], sampling={"max_tokens": body["max_tokens"]}))
    (finished,) = engine.step()
    output = finished.output
    assert output is not None
    choice = {"index": 0, "text": output.text, "finish_reason": output.finish_reason, "stop_reason": None}
    return {"choices": [choice], "usage": {"completion_tokens": output.num_tokens}}
