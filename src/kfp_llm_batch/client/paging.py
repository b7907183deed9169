"""Lists that come page by page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from kfp_llm_batch.client.failures import server_errors

_PAGE_SIZE = 50
_EQUALS = 1


def pages(what: str, ask: Callable[..., Any], field: str, *, name: str = "", **arguments: Any) -> Iterator[Any]:
    """Every entry of a list, or those of one display name.

    Args:
        what: What cannot be done if the server does not answer.
        ask: A method of kfp.Client that lists.
        field: Where its answer has the entries.
        name: Of the entries that are wanted; all if empty.
        arguments: For `ask`.

    Raises:
        ServerError: The server did not answer, or refused.
    """
    if name:
        equals = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
        arguments["filter"] = json.dumps({"predicates": [equals]})
    token = ""
    while True:
        with server_errors(what):
            answer = ask(page_token=token, page_size=_PAGE_SIZE, **arguments)
        yield from (entry for entry in getattr(answer, field) or [] if name in ("", entry.display_name))
        token = answer.next_page_token or ""
        if not token:
            return
