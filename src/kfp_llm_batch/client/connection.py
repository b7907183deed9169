"""A kfp.Client for this place: in a pod, in a notebook or outside, the way Kubeflow authenticates there."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import kfp
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from kfp_llm_batch.client.failures import server_errors
from kfp_llm_batch.client.transport import PatientTransport
from kfp_llm_batch.errors import ConfigurationError

HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
NAMESPACE_VARIABLE = "KFP_LLM_BATCH_NAMESPACE"
COOKIES_VARIABLE = "KFP_LLM_BATCH_COOKIES"
CA_CERTIFICATE_VARIABLE = "KFP_LLM_BATCH_CA_CERTIFICATE"
IN_CLUSTER_HOST = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_KFP_DEFAULT_NAMESPACE = "kubeflow"
"""Lets kfp take the namespace from its context file, or from the pod if the server has profiles."""
_POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class _Client(kfp.Client):  # type: ignore[misc]
    """kfp's client, that asks once whether the server is there, and leaves the user's home folder alone."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        """What the server says of itself; kfp's own waits 25 s for a server that refuses."""
        self.travel_patiently()
        return self._healthz_api.healthz_service_get_healthz()

    def set_user_namespace(self, namespace: str) -> None:
        """Keep the namespace for this client; kfp's own writes it into a file that all later clients obey."""
        self._context_setting["namespace"] = namespace

    def travel_patiently(self) -> None:
        """Send every request through the transport with time limits and retries."""
        self._healthz_api.api_client.rest_client = PatientTransport(self._existing_config)


def connect(host: str = "", namespace: str = "") -> kfp.Client:
    """A client of the Kubeflow Pipelines server.

    Authentication is Kubeflow's own: the projected token of the pod (KF_PIPELINES_SA_TOKEN_PATH), else the session
    cookies in KFP_LLM_BATCH_COOKIES, else what kfp finds (its context file, Identity-Aware Proxy). Certificates are
    always checked, against KFP_LLM_BATCH_CA_CERTIFICATE if that names a file.

    Args:
        host: Address of the server; else KF_PIPELINES_ENDPOINT, else the one inside the cluster.
        namespace: Profile of a multi-user Kubeflow; else KFP_LLM_BATCH_NAMESPACE, else the pod's own. Empty for a
            server without profiles.

    Raises:
        ConfigurationError: No address is given and this is no pod.
        ServerError: The server does not answer.
    """
    host = _host(host)
    namespace = namespace or os.environ.get(NAMESPACE_VARIABLE, "")
    with warnings.catch_warnings(), server_errors(f"No connection to Kubeflow Pipelines at {host}"):
        warnings.simplefilter("ignore")  # kfp warns everyone that it does not speak to servers of version 1
        client = _Client(
            host=host,
            namespace=namespace or _KFP_DEFAULT_NAMESPACE,
            cookies=os.environ.get(COOKIES_VARIABLE),
            credentials=_credentials(),
            ssl_ca_cert=os.environ.get(CA_CERTIFICATE_VARIABLE),
        )
    client.travel_patiently()
    return client


def _host(host: str) -> str:
    host = host or os.environ.get(HOST_VARIABLE, "")
    if not host and _POD_FOLDER.exists():
        return IN_CLUSTER_HOST
    if not host.startswith(("http://", "https://")):
        raise ConfigurationError(
            "The address of Kubeflow Pipelines is unknown" if not host else "The address needs its http:// or https://",
            received=host,
            remedy=f"Give it as --host or in {HOST_VARIABLE}, such as https://kubeflow.example.com/pipeline.",
        )
    return host


def _credentials() -> ServiceAccountTokenVolumeCredentials | None:
    """The pod's token for Kubeflow Pipelines, which is read again for each request, since it is renewed."""
    path = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH
    return ServiceAccountTokenVolumeCredentials(path) if Path(path).exists() else None
