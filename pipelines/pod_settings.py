"""What every task of every pipeline gets: image, storage credentials, retries."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from kfp_llm_batch.storage.s3_settings import SECRET_KEYS

WEBHOOK_KEY = {"webhook": "KFP_LLM_BATCH_WEBHOOK_URL"}
"""A key of the same secret, since whoever knows the address can post to it."""

STORAGE_SECRET_NAME = "kfp-llm-batch-storage"


def apply_pod_settings(task: dsl.PipelineTask, parameters: Mapping[str, Any]) -> None:
    """Set image, optional credentials, retries and no caching on `task`.

    Caching is off because an address does not tell whether the data behind it changed.
    """
    task.set_container_image(parameters["runtime_image"])
    task.set_caching_options(False)
    task.set_retry(num_retries=2, backoff_duration="30s", backoff_factor=2.0)
    _pass_secret(task, parameters, SECRET_KEYS)


def pass_webhook(task: dsl.PipelineTask, parameters: Mapping[str, Any]) -> None:
    """Give `task` the address of a webhook, should the secret hold one."""
    _pass_secret(task, parameters, WEBHOOK_KEY)


def apply_engine_settings(task: dsl.PipelineTask, parameters: Mapping[str, Any]) -> None:
    """Set what a pod with an engine needs on `task`.

    Requests and limits are the same, so that the pod is the last to be evicted. Memory that is only taken when used
    replaces its 64 MiB of /dev/shm. An empty selector and no tolerations leave the place to the cluster.
    """
    names = ("resources_cpu", "resources_memory", "resources_node_selector", "resources_tolerations")
    cpu, memory, node_selector, tolerations = channels = [parameters[name] for name in names]
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    kubernetes.empty_dir_mount(task, volume_name="shared-memory", mount_path="/dev/shm", medium="Memory")
    kubernetes.add_node_selector_json(task, node_selector)
    kubernetes.add_toleration_json(task, tolerations)
    # Within a loop or an exit handler KFP does not find these by itself.
    task.register_pipeline_channels(channels)


def _pass_secret(task: dsl.PipelineTask, parameters: Mapping[str, Any], keys: dict[str, str]) -> None:
    name = parameters["storage_secret_name"]
    kubernetes.use_secret_as_env(task, secret_name=name, secret_key_to_env=keys, optional=True)
