"""An engine elsewhere: a server that speaks OpenAI's protocol for completions, such as `kfp-llm-batch serve`.

Requests hold token ids, rendered and checked here, so that an answer does not depend on the server's chat template.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
import tenacity
from requests.adapters import HTTPAdapter

from kfp_llm_batch.engine.decisions import EngineSettings, Setting, chosen_by_user
from kfp_llm_batch.engine.messages import EngineSpecification, FinishedRequest, GenerationOutput, GenerationRequest
from kfp_llm_batch.engine.texts import without_surrogates
from kfp_llm_batch.errors import ConfigurationError

KIND = "endpoint"
URL_OPTION, NAME_OPTION, IN_FLIGHT_OPTION = "url", "served_model_name", "max_num_seqs"
OPTIONS = (URL_OPTION, NAME_OPTION, IN_FLIGHT_OPTION)
KEY_VARIABLE = "KFP_LLM_BATCH_ENDPOINT_KEY"
"""Sent as a bearer token, where the endpoint wants one."""
DEFAULT_IN_FLIGHT = 64

OUTAGE_SECONDS = 300.0
"""For which an endpoint may be unreachable or overloaded, as while its pod is replaced, before the step gives up."""
ANSWER_SECONDS = 900.0
FAULTS_PER_REQUEST = 3
"""Errors of the server itself, after which the request is taken to be their cause."""
_STEP_SECONDS = 0.5
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.5, max=15)
_BUSY = (429, 502, 503, 504)
_NO_ACCESS = (401, 403, 404, 405)
_FIRST_FAULT = 500
_NOT_SENT = ("n", "json_schema")
_WITHOUT_TOKEN_IDS = ("logprobs", "prompt_logprobs")


def endpoint_settings(options: Mapping[str, Any]) -> EngineSettings:
    """In place of a plan: threads and memory are the server's own business."""
    in_flight = Setting(value=DEFAULT_IN_FLIGHT, reason="the endpoint queues what it cannot run at once")
    arguments = {IN_FLIGHT_OPTION: in_flight, **{name: chosen_by_user(value) for name, value in options.items()}}
    return EngineSettings(arguments=arguments, environment={})


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse an address that is none, and options of an engine that runs here.

    Raises:
        ConfigurationError: An option is none of an endpoint's.
    """
    url = options[URL_OPTION]
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
    except ValueError:  # half of an IPv6 address
        parts = urlsplit("")
    if parts.username or parts.password or parts.query:  # not repeated: it may be a secret
        raise ConfigurationError(
            "engine_options: url holds a user, a password or a query", remedy=f"Give the key as {KEY_VARIABLE}."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            "engine_options: url is no address of an endpoint", received=url, allowed=["http://host:port"]
        )
    if others := sorted(options.keys() - set(OPTIONS)):
        raise ConfigurationError(
            "engine_options: with url the engine runs elsewhere", received=", ".join(others), allowed=OPTIONS
        )


class EndpointEngine:
    """As many requests at a time as `max_num_seqs` says, each in a thread of its own; the others wait here.

    Raises:
        ConfigurationError: The endpoint does not answer, or has no such model.
    """

    def __init__(self, specification: EngineSpecification) -> None:
        arguments = specification.arguments
        in_flight = arguments[IN_FLIGHT_OPTION]
        self._server = _Server(arguments[URL_OPTION], in_flight)
        self._name = self._server.model_name(arguments.get(NAME_OPTION))
        self.versions: dict[str, str] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(in_flight, thread_name_prefix="request")
        self._unfinished: set[concurrent.futures.Future[FinishedRequest]] = set()

    def add(self, request: GenerationRequest) -> None:
        """Send a request as soon as fewer than `max_num_seqs` are under way."""
        if asked := [name for name in _WITHOUT_TOKEN_IDS if name in request.sampling]:
            raise ValueError(f"an endpoint gives no {asked[0]} by token id")
        self._unfinished.add(self._pool.submit(self._answer, request))

    def step(self) -> list[FinishedRequest]:
        """What has been answered; waits half a second for a first answer."""
        done, self._unfinished = concurrent.futures.wait(
            self._unfinished, _STEP_SECONDS, concurrent.futures.FIRST_COMPLETED
        )
        return [future.result() for future in done]

    def has_unfinished(self) -> bool:
        """Whether answers are still to come."""
        return bool(self._unfinished)

    def _answer(self, request: GenerationRequest) -> FinishedRequest:
        try:
            output = _output(self._server.ask("POST", "/v1/completions", _body(self._name, request)))
        except _RefusedError as error:
            return FinishedRequest(request_id=request.request_id, refusal=str(error))
        except ConfigurationError:
            raise
        except (KeyError, ValueError, TypeError) as error:
            return FinishedRequest(request_id=request.request_id, refusal=f"The endpoint's answer is none: {error!r}")
        return FinishedRequest(request_id=request.request_id, output=output)


class _RefusedError(Exception):
    """The endpoint does not answer this request, whatever it does with others."""


class _UnavailableError(Exception):
    """The endpoint is away or overloaded.

    Args:
        trouble: What was seen.
        wait_seconds: That the endpoint asks us to wait.
    """

    def __init__(self, trouble: str, wait_seconds: float = 0.0) -> None:
        super().__init__(trouble)
        self.wait_seconds = wait_seconds


class _FaultError(Exception):
    """An error of the server itself, which may or may not be due to the request."""


class _Server:
    """The endpoint over HTTP; waits while it is overloaded or away."""

    def __init__(self, url: str, connections: int) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections))
        if key := os.environ.get(KEY_VARIABLE):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def model_name(self, wanted: str | None) -> str:
        """The name to ask for: the wanted one, or the only one."""
        names = [str(entry["id"]) for entry in self.ask("GET", "/v1/models")["data"]]
        if wanted is None and len(names) == 1:
            return names[0]
        if wanted not in names:
            raise ConfigurationError(
                "The endpoint has no such model", received=wanted, allowed=names, remedy=f"Set {NAME_OPTION}."
            )
        return wanted

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """What the endpoint answers.

        Raises:
            _RefusedError: It refuses this, or fails each time that it is asked this.
            ConfigurationError: It is away, or does not let us in.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((_UnavailableError, _FaultError)),
            wait=_pause,
            stop=_is_enough,
            reraise=True,
        )
        try:
            return retrying(self._ask_once, method, path, body)
        except _FaultError as error:
            raise _RefusedError(str(error)) from None
        except _UnavailableError as error:
            raise ConfigurationError(
                f"The endpoint did not answer for {OUTAGE_SECONDS:g} s: {error}",
                received=self._url,
                remedy="Start it or correct the url, and run again: what is finished is kept.",
            ) from None

    def _ask_once(self, method: str, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        try:
            response = self._session.request(method, self._url + path, json=body, timeout=ANSWER_SECONDS)
        except requests.Timeout:
            raise _RefusedError(f"The endpoint took longer than {ANSWER_SECONDS:g} s.") from None
        except requests.RequestException as error:
            raise _UnavailableError(type(error).__name__) from None
        if not response.ok:
            raise self._error(response)
        answer: Mapping[str, Any] = response.json()
        return answer

    def _error(self, response: requests.Response) -> Exception:
        said = f"The endpoint said {response.status_code}: {_message(response)}"
        if response.status_code in _BUSY:
            asked = response.headers.get("Retry-After", "")
            return _UnavailableError(said, float(asked) if asked.isdecimal() else 0.0)
        if response.status_code in _NO_ACCESS:
            return ConfigurationError(
                said, received=self._url, remedy=f"Correct the url, or give a key as {KEY_VARIABLE}."
            )
        return _FaultError(said) if response.status_code >= _FIRST_FAULT else _RefusedError(said)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait_seconds if isinstance(error, _UnavailableError) else 0.0
    return max(asked, _BACKOFF(state))


def _is_enough(state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _FaultError):
        return state.attempt_number >= FAULTS_PER_REQUEST
    return (state.seconds_since_start or 0.0) > OUTAGE_SECONDS


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return response.text[:500]


def _body(name: str, request: GenerationRequest) -> dict[str, Any]:
    sampling = {key: value for key, value in request.sampling.items() if key not in _NOT_SENT}
    if schema := request.sampling.get("json_schema"):
        sampling["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {"model": name, "prompt": request.token_ids, **sampling}


def _output(answer: Mapping[str, Any]) -> GenerationOutput:
    (choice,) = answer["choices"]
    stop, text = choice.get("stop_reason"), without_surrogates(choice["text"])
    return GenerationOutput(
        text=text,
        finish_reason=choice["finish_reason"],
        num_tokens=answer["usage"]["completion_tokens"],
        stop_reason=None if stop is None else str(stop),
        is_repaired=text != choice["text"],
    )
