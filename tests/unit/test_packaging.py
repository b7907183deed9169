import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from setuptools import find_namespace_packages

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_folder_is_listed():
    found = set(find_namespace_packages(str(ROOT / "src"), include=["kfp_llm_batch*"]))
    for name in ("components", "pipelines"):
        inside = find_namespace_packages(str(ROOT / name), exclude=["deploy*"])  # manifests, no code
        found |= {f"kfp_llm_batch.{package}" for package in (name, *(f"{name}.{child}" for child in inside))}
    assert {name for name in found if "egg-info" not in name} == set(PYPROJECT["tool"]["setuptools"]["packages"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def test_the_wheel_holds_types_and_compiled_files(wheel):
    assert "kfp_llm_batch/py.typed" in wheel
    assert "kfp_llm_batch/pipelines/batch_inference/pipeline.yaml" in wheel
    assert "kfp_llm_batch/components/load_dataset/component.yaml" in wheel


def test_the_wheel_holds_every_module(wheel):
    sources = [path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")]
    for folder in ("components", "pipelines"):
        sources += [f"kfp_llm_batch/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.py")]
    assert set(sources) <= wheel


def test_this_environment_is_for_cpu_only():
    names = {distribution.metadata["Name"].lower() for distribution in distributions()}
    unwanted = {"triton", "torchvision", "torchaudio", "torchcodec", "flashinfer-python", "vllm"}
    assert not {name for name in names if name in unwanted or name.startswith(("nvidia-", "cuda-"))}


def test_without_the_vllm_extra_nothing_brings_torch():
    base = " ".join(PYPROJECT["project"]["dependencies"])
    assert not any(name in base for name in ("torch", "vllm", "transformers"))
