"""The manifests: what Kubernetes' own schemas allow, and what belongs together by name."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kfp_llm_batch import __version__
from kfp_llm_batch.client.connection import IN_CLUSTER_HOST, NAMESPACE_VARIABLE
from kfp_llm_batch.images import DATA_IMAGE
from kfp_llm_batch.storage.s3_settings import SECRET_KEYS

FOLDER = Path(__file__).parents[2] / "pipelines" / "deploy"
KUBERNETES_VERSIONS = ("1.29", "1.34")
MANIFESTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}")
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]


def manifest(name: str, kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return next(document for document in documents if document["kind"] == kind)


def pod_of(pod_default: dict[str, Any]) -> dict[str, Any]:
    """The pod that Kubeflow makes of a notebook with this PodDefault, whose own kind has no schema in Kubernetes."""
    spec = pod_default["spec"]
    container = {"name": "notebook", "image": "notebook:1", "env": spec["env"], "volumeMounts": spec["volumeMounts"]}
    pod_spec = {"containers": [container], "volumes": spec["volumes"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "notebook"}, "spec": pod_spec}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("document", MANIFESTS)
def test_every_manifest_is_what_kubernetes_allows(document, version):
    validated = pod_of(document) if document["kind"] == "PodDefault" else document
    kubernetes_validate.validate(validated, version, strict=True)


def test_a_mistake_is_found():
    broken = copy.deepcopy(manifest("base/register-job.yaml", "Job"))
    broken["spec"]["template"]["spec"]["containers"][0]["comand"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES_VERSIONS[-1], strict=True)


def test_the_job_runs_this_version():
    job = manifest("base/register-job.yaml", "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == DATA_IMAGE
    assert job["metadata"]["name"] == f"kfp-llm-batch-register-{__version__}"
    assert container["command"] == ["kfp-llm-batch", "register"]


def test_the_job_may_run_where_only_restricted_pods_may():
    pod = manifest("base/register-job.yaml", "Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_job_and_notebooks_find_the_server_and_their_token():
    (container,) = manifest("base/register-job.yaml", "Job")["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["KF_PIPELINES_ENDPOINT"] == IN_CLUSTER_HOST
    assert NAMESPACE_VARIABLE in environment
    notebook = pod_of(manifest("examples/pod-default.yaml", "PodDefault"))["spec"]["containers"][0]
    for holder in (container, notebook):
        token = next(entry["value"] for entry in holder["env"] if entry["name"] == "KF_PIPELINES_SA_TOKEN_PATH")
        assert str(Path(token).parent) in [mount["mountPath"] for mount in holder["volumeMounts"]]


def test_who_registers_has_the_right_to():
    binding = manifest("base/service-account.yaml", "RoleBinding")
    account = manifest("base/service-account.yaml", "ServiceAccount")["metadata"]["name"]
    pod = manifest("base/register-job.yaml", "Job")["spec"]["template"]["spec"]
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    assert pod["serviceAccountName"] == account


def test_the_secret_is_the_one_that_every_pipeline_names():
    secret = manifest("examples/storage-secret.yaml", "Secret")
    for path in FOLDER.parent.glob("*/pipeline.yaml"):
        compiled = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        default = compiled["root"]["inputDefinitions"]["parameters"]["storage_secret_name"]["defaultValue"]
        assert secret["metadata"]["name"] == default
    assert secret["stringData"].keys() == SECRET_KEYS.keys()
    assert set(secret["stringData"].values()) == {"REPLACE"}


def test_the_base_holds_every_manifest_beside_it():
    listed = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert set(listed) == {path.name for path in (FOLDER / "base").glob("*.yaml")} - {"kustomization.yaml"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds what Kustomize describes")
def test_kustomize_builds_the_base():
    command = ["kubectl", "kustomize", str(FOLDER / "base")]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    documents = list(yaml.safe_load_all(built))
    assert sorted(document["kind"] for document in documents) == [
        "Job",
        "NetworkPolicy",
        "RoleBinding",
        "ServiceAccount",
    ]
    for document in documents:
        assert document["metadata"]["labels"] == {"app.kubernetes.io/name": "kfp-llm-batch"}
        kubernetes_validate.validate(document, KUBERNETES_VERSIONS[-1], strict=True)


def test_no_manifest_holds_a_secret():
    for path in FOLDER.rglob("*.yaml"):
        values = re.findall(r"(?i)\b(?:accesskey|secretkey|password|token): *(\S+)", path.read_text(encoding="utf-8"))
        assert set(values) <= {"REPLACE"}, path
