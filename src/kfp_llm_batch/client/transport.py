"""How requests travel: with time limits, with retries where nothing can happen twice, and no web page for an answer."""

from __future__ import annotations

from typing import Any

import urllib3
from kfp_server_api import ApiException, Configuration
from kfp_server_api.rest import RESTClientObject

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_PASSING_STATUSES = (429, 502, 503, 504)
_UNAUTHORIZED = 401


class _Retries(urllib3.Retry):
    """Repeats what is safe to repeat, and whatever the server turned away with 429 before it looked at it."""

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        return status_code == 429 or super().is_retry(method, status_code, has_retry_after)


class PatientTransport(RESTClientObject):  # type: ignore[misc]
    """The generated client's transport, which by itself waits for an answer without end and never retries."""

    def __init__(self, configuration: Configuration, read_seconds: float = _READ_SECONDS) -> None:
        configuration.retries = _Retries(
            total=4,
            connect=2,
            read=1,
            other=0,  # a certificate that is not accepted will not be a moment later
            backoff_factor=0.5,
            status_forcelist=_PASSING_STATUSES,
            allowed_methods=("GET", "DELETE"),
            raise_on_status=False,
        )
        super().__init__(configuration)
        self._timeout = (_CONNECT_SECONDS, read_seconds)

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send one request.

        Raises:
            ApiException: The server refused, or what answered is not Kubeflow Pipelines.
        """
        try:
            response = super().request(method, url, **{**options, "_request_timeout": self._timeout})
        except ApiException as error:
            raise _with_body(error) from None
        if "json" not in (response.getheader("content-type") or "json"):
            # A login page comes with status 200, and the generated client would take it for data.
            raise _with_body(ApiException(status=_UNAUTHORIZED, reason="a web page came back instead of data"))
        return response


def _with_body(error: ApiException) -> ApiException:
    """The generated client decodes an error's body, whether there is one or not."""
    error.body = error.body or b""
    return error
