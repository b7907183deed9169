"""The built images, and containers of them as a strict cluster would run them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from kfp_llm_batch.images import DATA_IMAGE, VLLM_CPU_IMAGE

ROOT = Path(__file__).parents[2]
IMAGES = {"data": DATA_IMAGE, "vllm-cpu": VLLM_CPU_IMAGE}

LOCKED_DOWN = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--user=54321:0",
    "--network=none",
    "--shm-size=64m",
    "--tmpfs=/tmp:mode=1777",
)
"""What a strict cluster allows a pod: a user that the image does not know, nothing but /tmp to write."""


class Docker:
    """The client that images/docker found."""

    def __init__(self, client: str) -> None:
        self._client = client

    def __call__(self, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS`; the caller looks at the exit code."""
        return subprocess.run([self._client, *arguments], capture_output=True, text=True, check=False, timeout=timeout)

    def inspect(self, image: str) -> dict[str, Any]:
        """What the daemon knows of an image."""
        found: list[dict[str, Any]] = json.loads(self("image", "inspect", image).stdout)
        return found[0]

    def output(self, image: str, *command: str, options: tuple[str, ...] = LOCKED_DOWN) -> str:
        """What a command in a container prints.

        Raises:
            AssertionError: It failed.
        """
        finished = self("run", "--rm", *options, image, *command)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout


def installed(name: str) -> dict[str, str]:
    """Packages and versions of an image by its locks, but torch's; vllm-cpu has all that data has."""
    return locked("data") | (locked("vllm-cpu") if name == "vllm-cpu" else {})


def locked(name: str) -> dict[str, str]:
    """Packages and versions of one lock."""
    lock = (ROOT / f"images/{name}/requirements.lock").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
