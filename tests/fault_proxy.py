"""A proxy between a client and a store that spoils one request in ten, the way networks and busy stores do."""

from __future__ import annotations

import contextlib
import random
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Sequence
from io import BufferedIOBase
from types import TracebackType
from typing import Self

FAULTS = ("drop before", "drop after", "delay", "truncate", "429", "500", "503")
DELAY_SECONDS = 2.0

_BODIES = (
    ("application/xml", b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>slow</Message></Error>'),
    ("application/xml", b"<html><body>Bad gateway<br></body>"),
    ("application/xml", b""),
    ("text/html", b"<html><body><h1>Try again</h1></body></html>"),
    ("text/html", b"\xff\xfe no text at all"),
    ("application/json", b'{"error": {"code": 503, "message": "busy"}}'),
)


class FaultProxy:
    """Forwards HTTP requests byte for byte, so that their signatures hold.

    Args:
        upstream: Address of the store, http://host:port.
        seed: Of the faults.
        rate: Share of requests that get one; may be changed while the proxy runs.
        faults: Those to choose from; "silence" besides FAULTS.
    """

    def __init__(self, upstream: str, *, seed: int, rate: float = 0.1, faults: Sequence[str] = FAULTS) -> None:
        host, _, port = upstream.removeprefix("http://").partition(":")
        self.upstream = (host, int(port))
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self.rate = rate
        self._faults = faults
        self._lock = threading.Lock()
        self._has_ended = threading.Event()
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, EOFError):
                    while proxy._exchange(self.rfile, self.wfile):
                        pass

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _choose(self) -> tuple[str, tuple[str, bytes]]:
        with self._lock:
            fault = self._random.choice(self._faults) if self._random.random() < self.rate else ""
            self.counts[fault] += 1
            return fault, self._random.choice(_BODIES)

    def _exchange(self, source: BufferedIOBase, target: BufferedIOBase) -> bool:
        """Forward one request and its answer; whether the connection goes on."""
        request, method = _read_message(source)
        fault, (kind, body) = self._choose()
        if fault == "silence":
            self._has_ended.wait()
        if fault in ("drop before", "silence"):
            return False
        if fault.isdigit():
            head = f"HTTP/1.1 {fault} Fault\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            target.write(head.encode() + body)
            return True
        if fault == "delay":
            time.sleep(DELAY_SECONDS)
        with socket.create_connection(self.upstream) as upstream, upstream.makefile("rb") as answers:
            upstream.sendall(request)
            answer, _ = _read_message(answers, answers_to=method)
        if fault == "drop after":
            return False
        if fault == "truncate":
            start = answer.index(b"\r\n\r\n") + 4
            target.write(answer[: start + (len(answer) - start) // 2])
            # An answer without a body is whole.
            return len(answer) == start
        target.write(answer)
        return True


def _read_message(stream: BufferedIOBase, answers_to: str = "") -> tuple[bytes, str]:
    """One request, or the answer to a request with this method: its bytes, and the first word."""
    lines = [_line(stream)]
    while lines[-1] != b"\r\n":
        lines.append(_line(stream))
    first, *headers = lines[0].decode().split()[:2]
    if answers_to and headers[0].startswith("1"):
        return _read_message(stream, answers_to)
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:-1])}
    head = b"".join(lines)
    if answers_to == "HEAD" or (answers_to and headers[0] in ("204", "304")):
        return head, first
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        return head + _read_chunks(stream), first
    if b"content-length" in fields:
        return head + stream.read(int(fields[b"content-length"])), first
    return (head + stream.read() if answers_to else head), first


def _read_chunks(stream: BufferedIOBase) -> bytes:
    data = b""
    while True:
        size = _line(stream)
        chunk = size + stream.read(int(size.split(b";")[0], 16) + 2)
        data += chunk
        if int(size.split(b";")[0], 16) == 0:
            return data


def _line(stream: BufferedIOBase) -> bytes:
    line = stream.readline()
    if not line:
        raise EOFError
    return line
