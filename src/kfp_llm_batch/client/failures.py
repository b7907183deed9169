"""What the server's refusals mean and who can mend them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

import urllib3
from kfp_server_api import ApiException

from kfp_llm_batch.errors import ServerError

_SHOWN_CHARACTERS = 500
_LOGIN = (
    "Inside Kubeflow give the notebook the PodDefault `access-ml-pipeline`; outside set KFP_LLM_BATCH_COOKIES to the "
    "session's cookies, or reach the server with `kubectl port-forward`."
)
_REMEDIES: Mapping[int, str] = {
    400: "Correct the request; --dry-run shows it.",
    401: _LOGIN,
    403: "Name your own namespace (--namespace or KFP_LLM_BATCH_NAMESPACE), or ask for access to this one.",
    404: "Check the name or the id, and the namespace; the server must be version 2.",
    409: "Choose another name, or delete what has it.",
}
_BUSY = "The server is busy or starts anew. See with `kfp-llm-batch runs` what arrived; then run again."
_UNREACHABLE = "Check the address (--host or KF_PIPELINES_ENDPOINT), the network, and that the server runs."


class ServerUnavailableError(ServerError):
    """The server did not answer, or not now: this passes by itself."""


class NotFoundOnServerError(ServerError):
    """The server answered, and there is no such thing."""


class ExistsOnServerError(ServerError):
    """The server has one of this name already."""


_KINDS: Mapping[int, type[ServerError]] = {404: NotFoundOnServerError, 409: ExistsOnServerError}


@contextlib.contextmanager
def server_errors(what: str) -> Iterator[None]:
    """Turn every failure of a request into one message.

    Args:
        what: What cannot be done then, such as "The run cannot be created".

    Raises:
        ServerError: The server did not answer, or refused.
    """
    try:
        yield
    except ApiException as error:
        raise _refusal(what, error) from None
    except urllib3.exceptions.HTTPError as error:
        raise ServerUnavailableError(f"{what}: {_reason(error)}", remedy=_UNREACHABLE) from None


def _refusal(what: str, error: ApiException) -> ServerError:
    status = error.status or 0
    if not status:
        return ServerUnavailableError(f"{what}: {error.reason}", remedy=_UNREACHABLE)
    message = f"{what}: the server answered {status} ({_said(error)})"
    if status == 429 or status >= 500:
        return ServerUnavailableError(message, remedy=_BUSY)
    return _KINDS.get(status, ServerError)(message, remedy=_REMEDIES.get(status, ""))


def _said(error: ApiException) -> str:
    """The server's own words, which stand in its JSON, or the status line's."""
    try:
        body = json.loads(error.body or "")
        text = body.get("message") or body.get("error_message") or body.get("error")
    except (ValueError, AttributeError):
        text = None
    return str(text or error.reason or "without a reason")[:_SHOWN_CHARACTERS]


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    """A retry's own reason, without the pool and the path that urllib3 puts before it."""
    return str(getattr(error, "reason", None) or error)[:_SHOWN_CHARACTERS]
