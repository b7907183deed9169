"""The step `generate_on_cluster`: an Indexed Job is made, watched to its end, and removed if the run is cancelled."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tenacity
import urllib3
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from kfp_llm_batch import termination
from kfp_llm_batch.cluster.manifest import PodConfig, job_name, render_job
from kfp_llm_batch.errors import ConfigurationError, DataError, InterruptedRunError, ServerError, parse_message
from kfp_llm_batch.machine.kernel_files import number_list
from kfp_llm_batch.results.publishing import existing_result
from kfp_llm_batch.sharding.job import Job, JobAddress, JobFolder, is_result_of
from kfp_llm_batch.storage.object_store import open_store

_LOG = logging.getLogger("kfp_llm_batch")

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
WATCH_SECONDS = 5
"""SIGTERM is heard between two watches."""
_ANSWER_SECONDS = 15
_PATIENCE_SECONDS = 300.0
"""A control plane may be upgraded meanwhile."""
_LAST_PATIENCE_SECONDS = 20.0
"""A pod that is told to end has 30 s."""
_TRANSIENT = {408, 410, 429, 500, 502, 503, 504}
_NO_ANSWER = (urllib3.exceptions.HTTPError, OSError)


def load_cluster() -> tuple[client.BatchV1Api, str]:
    """The cluster that this pod is in, or the one that kubectl would talk to; and the namespace.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        if NAMESPACE_FILE.exists():
            config.load_incluster_config()
            return client.BatchV1Api(), NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        # The client reads KUBECONFIG only once, when it is imported.
        file = os.environ.get("KUBECONFIG")
        config.load_kube_config(file)
        _, active = config.list_kube_config_contexts(file)
    except config.ConfigException as error:
        raise ConfigurationError(
            f"There is no cluster: {error}", remedy="Run the step in a pod, or set KUBECONFIG."
        ) from error
    return client.BatchV1Api(), active["context"].get("namespace", "default")


def generate_on_cluster(address: JobAddress, pods: PodConfig) -> dict[str, int]:
    """Have a cluster answer all shards of a job.

    Shards whose pods all failed are left to the repair and the merge, which name them.

    Returns:
        Numbers of shards that are answered and that failed.

    Raises:
        ConfigurationError, DataError: The pods found a mistake that no other attempt can mend.
        ServerError: Kubernetes does not answer or refuses.
        InterruptedRunError: SIGTERM has come; the Job and its pods are removed.
    """
    if is_result_of(address.id, existing_result(address.output_uri)):
        _LOG.info("The result at %s is that of this very job.", address.output_uri)
        return {"succeeded": 0, "failed": 0}
    folder = JobFolder(open_store(address.uri))
    job = folder.job()
    api, namespace = load_cluster()
    run = _ClusterRun(api, namespace, address, job, pods)
    with termination.Termination():
        try:
            status = run.finish()
        except InterruptedRunError:
            run.remove()
            raise
    _check(folder, job, status)
    return {"succeeded": status.succeeded or 0, "failed": len(number_list(status.failed_indexes or ""))}


class _ClusterRun:
    """One Indexed Job, from its making to its end."""

    def __init__(self, api: client.BatchV1Api, namespace: str, address: JobAddress, job: Job, pods: PodConfig) -> None:
        self._api = api
        self._place = {"name": job_name(address), "namespace": namespace}
        self._body = render_job(address, len(job.shards), pods)
        self._shown = ""

    def finish(self) -> client.V1JobStatus:
        """Make the Job, or find the one that an earlier attempt of this step has made, and wait for its end."""
        found = self._create()
        while not _ended(found.status):
            termination.check()
            self._show(found.status)
            for status in self._changes(found.metadata.resource_version):
                self._show(status)
                if _ended(status):
                    break
            # Whatever the watch has missed, this tells.
            found = _patiently(self._read)
        self._show(found.status)
        return found.status

    def remove(self) -> None:
        """Delete the Job with its pods, though the step is told to end."""
        _LOG.info("The Job %s is removed; what its pods have finished is kept.", self._place["name"])
        try:
            self._delete(patience_seconds=_LAST_PATIENCE_SECONDS, sleep=time.sleep)
        except ServerError as error:
            _LOG.warning("The Job %s could not be removed, and goes on: %s", self._place["name"], error)

    def _create(self) -> client.V1Job:
        namespace = self._place["namespace"]
        for _ in range(2):
            try:
                created = _patiently(
                    lambda: self._api.create_namespaced_job(namespace, self._body, _request_timeout=_ANSWER_SECONDS)
                )
                _LOG.info("The Job %s is made in namespace %s.", *self._place.values())
                return created
            except ServerError as error:
                if _status(error) != 409:
                    raise
            found = _patiently(self._read)
            if not _ended(found.status):
                _LOG.info("The Job %s is there already; this step goes on with it.", self._place["name"])
                return found
            self._replace_ended()
        raise ServerError(f"The Job {self._place['name']} is made by another run over and over")

    def _read(self) -> client.V1Job:
        return self._api.read_namespaced_job(**self._place, _request_timeout=_ANSWER_SECONDS)

    def _replace_ended(self) -> None:
        """An earlier run's Job stands in the way: without it the shards that are left can be answered."""
        self._delete()
        for _ in range(60):
            termination.check()
            try:
                _patiently(self._read)
            except ServerError as error:
                if _status(error) == 404:
                    return
                raise
            termination.sleep(1)
        raise ServerError(f"The ended Job {self._place['name']} does not go away")

    def _delete(self, **patience: Any) -> None:
        options = {"propagation_policy": "Foreground", "_request_timeout": _ANSWER_SECONDS}
        try:
            _patiently(lambda: self._api.delete_namespaced_job(**self._place, **options), **patience)
        except ServerError as error:
            if _status(error) != 404:
                raise

    def _changes(self, version: str) -> Iterator[client.V1JobStatus]:
        """Status after status, for a few seconds; a watch that breaks off is no error."""
        started = time.monotonic()
        try:
            for event in watch.Watch().stream(
                self._api.list_namespaced_job,
                self._place["namespace"],
                field_selector=f"metadata.name={self._place['name']}",
                resource_version=version,
                timeout_seconds=WATCH_SECONDS,
                _request_timeout=_ANSWER_SECONDS,
            ):
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"].status
        except ApiException as error:
            if error.status not in _TRANSIENT:
                raise _explained(error) from error
            _LOG.warning("Watching the Job failed (%s); it goes on.", error.status)
        except _NO_ANSWER as error:
            _LOG.warning("Watching the Job broke off (%s); it goes on.", type(error).__name__)
        if time.monotonic() - started < 1:
            termination.sleep(1)

    def _show(self, status: client.V1JobStatus) -> None:
        words = (
            f"{status.succeeded or 0} of {self._body['spec']['completions']} shards are answered, "
            f"{status.active or 0} pods are at work, {status.failed or 0} have failed."
        )
        if words != self._shown:
            _LOG.info("%s", words)
            self._shown = words


def _check(folder: JobFolder, job: Job, status: client.V1JobStatus) -> None:
    """Raise what a pod said, if Kubernetes ended the Job for it."""
    failed = _condition(status, "Failed")
    if failed is None:
        return
    if failed.reason != "PodFailurePolicy":
        _LOG.warning("The Job failed (%s): %s; shards %s.", failed.reason, failed.message, status.failed_indexes)
        return
    for number in range(len(job.shards)):
        error = parse_message(folder.failure(number) or "")
        if isinstance(error, ConfigurationError | DataError):
            raise error
    raise ConfigurationError(f"Kubernetes ended the Job: {failed.message}", remedy="Look at the pod's log.")


def _ended(status: client.V1JobStatus) -> bool:
    return _condition(status, "Complete") is not None or _condition(status, "Failed") is not None


def _condition(status: client.V1JobStatus, kind: str) -> Any:
    return next((entry for entry in status.conditions or () if entry.type == kind and entry.status == "True"), None)


def _sleep(seconds: float) -> None:
    termination.sleep(seconds)
    termination.check()


def _patiently(
    action: Any, patience_seconds: float = _PATIENCE_SECONDS, sleep: Callable[[float], None] = _sleep
) -> Any:
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_worth_a_retry),
        stop=tenacity.stop_after_delay(patience_seconds),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(action)
    except ApiException as error:
        raise _explained(error) from error
    except _NO_ANSWER as error:
        raise ServerError(
            f"Kubernetes did not answer for {patience_seconds:.0f} s ({type(error).__name__})",
            remedy="Look at the cluster's control plane, and run again.",
        ) from error


def _is_worth_a_retry(error: BaseException) -> bool:
    return error.status in _TRANSIENT if isinstance(error, ApiException) else isinstance(error, _NO_ANSWER)


def _status(error: ServerError) -> Any:
    return getattr(error.__cause__, "status", None)


def _explained(error: ApiException) -> ServerError:
    remedies = {
        401: "The pod's token is not accepted.",
        403: f"Give the service account of the pod {os.environ.get('HOSTNAME', '')} the role of "
        "pipelines/deploy/examples/generate-on-cluster.yaml.",
        422: "The parameters make a Job that Kubernetes does not take.",
    }
    return ServerError(
        f"Kubernetes refused ({error.status} {error.reason}): {str(error.body)[:500]}",
        remedy=remedies.get(error.status, "Look at the cluster."),
    )
