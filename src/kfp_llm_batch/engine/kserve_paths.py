"""Paths that KServe's clients and probes ask, on a server that has vLLM's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]

_OPENAI_PREFIX = "/openai"
_HEALTH = ("/v2/health/live", "/v2/health/ready", "/healthz")


class KServePaths:
    """ASGI middleware: KServe has the OpenAI protocol below /openai, and health at the paths of protocol version 2."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the request on under vLLM's path."""
        if scope["type"] == "http":
            scope = {**scope, "path": vllm_path(scope["path"])}
        await self._application(scope, receive, send)


def vllm_path(path: str) -> str:
    """Where vLLM has what KServe has at `path`; all other paths are the same."""
    if path in _HEALTH:
        return "/health"
    inside = path.removeprefix(_OPENAI_PREFIX)
    return inside if inside.startswith("/v1/") else path
