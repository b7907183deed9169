"""The Indexed Job that answers a job in shards: one index a shard, each taken by whichever pod is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kfp_llm_batch.errors import BatchError, ConfigurationError, DataError, InterruptedRunError
from kfp_llm_batch.sharding.job import JobAddress
from kfp_llm_batch.sharding.sizing import parse_cpus
from kfp_llm_batch.storage.s3_settings import SECRET_KEYS

CONTAINER = "main"
LABEL = "kfp-llm-batch/job"
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_SHARED_MEMORY = "shared-memory"
_KEEP_SECONDS = 24 * 3600
"""For whoever wants to look at the finished Job."""


@dataclass(frozen=True, kw_only=True)
class PodConfig:
    """What the pods of a job get; checks itself."""

    parallelism: int
    """Pods at a time."""
    image: str
    cpu: str = "2"
    memory: str = "8Gi"
    """Requested and limited alike."""
    attempts: int = 3
    """Pods for one shard that may fail; those that were evicted do not count."""
    storage_endpoint: str = ""
    storage_secret_name: str = ""
    """Keys `accesskey` and `secretkey`; it may be absent."""
    service_account: str = ""
    """Of the pods, for stores that know them by it; empty takes the namespace's own."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    queue_name: str = ""
    """Of Kueue, which then decides when the pods start."""

    def __post_init__(self) -> None:
        for name, value in (("shard_parallelism", self.parallelism), ("attempts", self.attempts)):
            if value < 1:
                raise ConfigurationError(f"{name} is no positive number", received=value)
        parse_cpus(self.cpu)


def job_name(address: JobAddress) -> str:
    """The same for the same work, so that a step that is started again finds the Job that it has made."""
    return f"kfp-llm-batch-{address.id}"


def render_job(address: JobAddress, shards: int, pods: PodConfig) -> dict[str, Any]:
    """The manifest, as Kubernetes' API takes it."""
    labels = {LABEL: address.id, **({_QUEUE_LABEL: pods.queue_name} if pods.queue_name else {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name(address), "labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": shards,
            "parallelism": min(pods.parallelism, shards),
            "backoffLimitPerIndex": pods.attempts - 1,
            "podFailurePolicy": {"rules": _failure_rules()},
            "ttlSecondsAfterFinished": _KEEP_SECONDS,
            # Kueue starts what it admits; nothing else may run before.
            "suspend": bool(pods.queue_name),
            "template": {"metadata": {"labels": {LABEL: address.id}}, "spec": _pod(address, pods)},
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    """The first that fits counts; a failure that none fits counts against its index."""

    def exited(*errors: type[BatchError]) -> dict[str, Any]:
        codes = [error.exit_code for error in errors]
        return {"containerName": CONTAINER, "operator": "In", "values": codes}

    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": exited(InterruptedRunError)},
        # No other attempt can mend them.
        {"action": "FailJob", "onExitCodes": exited(ConfigurationError, DataError)},
    ]


def _pod(address: JobAddress, pods: PodConfig) -> dict[str, Any]:
    return {
        # Asked for by podFailurePolicy: each attempt is a pod of its own.
        "restartPolicy": "Never",
        **({"serviceAccountName": pods.service_account} if pods.service_account else {}),
        "automountServiceAccountToken": bool(pods.service_account),
        "nodeSelector": dict(pods.node_selector),
        "tolerations": [dict(toleration) for toleration in pods.tolerations],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {LABEL: address.id}},
            }
        ],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": _SHARED_MEMORY, "emptyDir": {"medium": "Memory"}}],
        "containers": [_container(address, pods)],
    }


def _container(address: JobAddress, pods: PodConfig) -> dict[str, Any]:
    amounts = {"cpu": pods.cpu, "memory": pods.memory}
    return {
        "name": CONTAINER,
        "image": pods.image,
        "command": ["python3", "-m", "kfp_llm_batch.cluster.pod", address.uri],
        "env": _environment(pods),
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": _SHARED_MEMORY, "mountPath": "/dev/shm"}],
    }


def _environment(pods: PodConfig) -> list[dict[str, Any]]:
    """JOB_COMPLETION_INDEX is set by Kubernetes."""
    entries: list[dict[str, Any]] = []
    if pods.storage_endpoint:
        entries.append({"name": "KFP_LLM_BATCH_S3_ENDPOINT", "value": pods.storage_endpoint})
    for key, name in SECRET_KEYS.items() if pods.storage_secret_name else ():
        reference = {"name": pods.storage_secret_name, "key": key, "optional": True}
        entries.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    return entries
