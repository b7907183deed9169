"""An engine without a model: it answers every request with the last user message, for dry runs and fast tests."""

from __future__ import annotations

from collections import deque

from kfp_llm_batch.engine.messages import FinishedRequest, GenerationOutput, GenerationRequest

START_OF_MESSAGE = 256
"""Token that precedes a message; 0 to 255 are the bytes of its text."""
END_OF_ROLE = 257
END_OF_PROMPT = 258
_ANSWERS_PER_STEP = 64


class EchoEngine:
    """One token is one byte of UTF-8; `max_tokens` cuts as a model's limit does."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self._waiting: deque[GenerationRequest] = deque()

    def add(self, request: GenerationRequest) -> None:
        """Queue a request."""
        self._waiting.append(request)

    def step(self) -> list[FinishedRequest]:
        """Answer up to 64 requests."""
        count = min(_ANSWERS_PER_STEP, len(self._waiting))
        return [_answer(self._waiting.popleft()) for _ in range(count)]

    def has_unfinished(self) -> bool:
        """Whether requests wait."""
        return bool(self._waiting)


def _answer(request: GenerationRequest) -> FinishedRequest:
    content = _last_content(request.token_ids)
    limit = request.sampling["max_tokens"]
    kept = content[:limit]
    text = bytes(kept).decode("utf-8", errors="ignore")
    output = GenerationOutput(
        text=text,
        finish_reason="length" if len(content) > limit else "stop",
        num_tokens=len(kept),
        is_repaired=len(text.encode()) < len(kept),
    )
    return FinishedRequest(request_id=request.request_id, output=output)


def _last_content(token_ids: list[int]) -> list[int]:
    end = len(token_ids) - token_ids[::-1].index(END_OF_ROLE)
    return token_ids[end:-1]
