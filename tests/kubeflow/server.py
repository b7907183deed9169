"""A Kubeflow Pipelines server for tests: HTTP on this machine, every request and every answer held to the contract."""

from __future__ import annotations

import email
import inspect
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.kubeflow.contract import Operation, find_operation
from tests.kubeflow.state import KubeflowState, RefusalError

_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 501: 12, 503: 14}
"""Of google.rpc.Code, which stand in the bodies of errors."""


@dataclass(frozen=True, kw_only=True)
class SeenRequest:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class Fault:
    """What happens to some requests instead of an answer."""

    status: int
    times: int
    operation: str = ""
    """Only requests for this operation, such as CreateRun."""
    seconds: float = 0.0
    """Wait for so long, then answer as always."""
    web_page: bool = False
    """Answer with a login page."""


@dataclass
class KubeflowServer:
    """The running server."""

    state: KubeflowState = field(default_factory=KubeflowState)
    token: str = ""
    """What Authorization must hold as a bearer token; empty lets everyone in."""
    cookie: str = ""
    requests: list[SeenRequest] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    """Answers of this server that its contract does not allow: defects of the tests."""
    faults: list[Fault] = field(default_factory=list)
    host: str = ""

    def fail(self, status: int, *, times: int = 1, operation: str = "") -> None:
        """Refuse the next requests."""
        self.faults.append(Fault(status, times, operation))

    def sent(self, method: str) -> list[SeenRequest]:
        """The requests of this method."""
        return [request for request in self.requests if request.method == method]

    def answer(self, request: SeenRequest, file: bytes) -> tuple[int, Any, Fault | None]:
        """Status and body for a request."""
        operation = find_operation(request.method, request.path)
        if operation is None:
            return 404, {"code": 5, "message": f"{request.method} {request.path} is not in the contract"}, None
        fault = self._fault(operation)
        if fault:
            time.sleep(fault.seconds)
            if fault.status:
                return fault.status, _error(fault.status, "as the test wants it"), fault
        try:
            self._check(request, operation, file)
            return 200, self._result(request, operation, file), None
        except RefusalError as refusal:
            return refusal.status, _error(refusal.status, str(refusal)), None

    def _check(self, request: SeenRequest, operation: Operation, file: bytes) -> None:
        authorized = not self.token or request.headers.get("authorization") == f"Bearer {self.token}"
        if not authorized or self.cookie not in request.headers.get("cookie", ""):
            raise RefusalError(401, "Request header error: there is no user identity header")
        if problems := operation.problems_of_request(request.query, None if file else request.body):
            raise RefusalError(400, f"not what the contract allows: {'; '.join(problems)}")

    def _result(self, request: SeenRequest, operation: Operation, file: bytes) -> Any:
        call = self.state.operation(operation.name)
        offered = {"query": request.query, "body": request.body, "file": file, **operation.path_values}
        body = call(**{name: offered[name] for name in inspect.signature(call).parameters})
        self.violations += operation.problems_of_response(200, body)
        return body

    def _fault(self, operation: Operation) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and operation.name.endswith(fault.operation):
                fault.times -= 1
                return fault
        return None


@contextmanager
def serving(server: KubeflowServer, certificate: Path | None = None) -> Iterator[KubeflowServer]:
    """Answer on a free port of this machine; over TLS with a file that holds a certificate and its key."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.host = f"{'https' if certificate else 'http'}://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def _handler(server: KubeflowServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
            is_upload = self.headers.get_content_type() == "multipart/form-data"
            address = urlsplit(self.path)
            request = SeenRequest(
                method=self.command,
                path=address.path,
                query=dict(parse_qsl(address.query)),
                body=json.loads(data) if data and not is_upload else None,
                headers={name.lower(): value for name, value in self.headers.items()},
            )
            server.requests.append(request)
            status, body, fault = server.answer(request, _uploaded(self.headers, data) if is_upload else b"")
            if fault and fault.web_page:
                self._send(200, b"<html>Log in</html>", "text/html")
            else:
                self._send(status, json.dumps(body).encode(), "application/json")

        do_GET = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815

        def _send(self, status: int, data: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(data)))
            if status in (429, 503):
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Nothing: the requests are kept."""

    return Handler


def _uploaded(headers: email.message.Message, data: bytes) -> bytes:
    """The file in a form."""
    message = email.message_from_bytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + data)
    (part,) = [part for part in message.get_payload() if part.get_filename()]  # type: ignore[union-attr]
    content: bytes = part.get_payload(decode=True)  # type: ignore[union-attr, assignment]
    return content


def _error(status: int, message: str) -> dict[str, Any]:
    return {"code": _CODES.get(status, 2), "message": message, "details": []}
