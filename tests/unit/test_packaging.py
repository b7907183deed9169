import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_namespace_packages

from kfp_llm_batch import __version__
from kfp_llm_batch.images import DATA_IMAGE, REGISTRY, VLLM_CPU_IMAGE

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_folder_is_listed():
    found = set(find_namespace_packages(str(ROOT / "src"), include=["kfp_llm_batch*"]))
    for name in ("components", "pipelines"):
        inside = find_namespace_packages(str(ROOT / name), exclude=["deploy*"])  # manifests, no code
        found |= {f"kfp_llm_batch.{package}" for package in (name, *(f"{name}.{child}" for child in inside))}
    assert {name for name in found if "egg-info" not in name} == set(PYPROJECT["tool"]["setuptools"]["packages"])


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory) -> Path:
    """The wheel, built from what the source distribution holds and nothing else."""
    folder: Path = tmp_path_factory.mktemp("wheel")
    # A copy, since setuptools leaves its notes in the tree, where they would hide later entry points.
    tree = folder / "tree"
    for name in ("src", "components", "pipelines"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build("sdist", tree, folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir() and path != tree)
    build("wheel", source, folder)
    return next(folder.glob("*.whl"))


def build(kind: str, source: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(wheel_file) -> set[str]:
    return set(zipfile.ZipFile(wheel_file).namelist())


@pytest.fixture(scope="module")
def environment(wheel_file, tmp_path_factory) -> Path:
    """An environment with the wheel and, for its dependencies, the packages of this one."""
    folder: Path = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--ignore-installed", str(wheel_file)], check=True, capture_output=True)
    return folder


def installed_command(environment: Path, *arguments: str) -> str:
    command = [str(environment / "bin" / "kfp-llm-batch"), *arguments]
    finished = subprocess.run(command, cwd=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_installed_wheel_compiles_everything_to_what_is_committed(environment):
    where = [str(environment / "bin" / "python"), "-c", "import kfp_llm_batch; print(kfp_llm_batch.__file__)"]
    found = subprocess.run(where, cwd=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found).is_relative_to(environment)
    installed_command(environment, "compile", "--output", "compiled")
    committed = {path.relative_to(ROOT): path for path in ROOT.glob("components/*/component.yaml")}
    committed |= {path.relative_to(ROOT): path for path in ROOT.glob("pipelines/*/pipeline.yaml")}
    for path, source in committed.items():
        name = Path(*path.parts[1:])
        assert (environment / "compiled" / name).read_text() == source.read_text()


def test_the_installed_wheel_knows_its_machine(environment):
    report = json.loads(installed_command(environment, "doctor", "--json"))
    assert report["machine"]


def test_importing_the_package_loads_nothing_else():
    script = (
        "import sys; before = set(sys.modules); import kfp_llm_batch\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["kfp_llm_batch"]


IMPORTED = {
    "kfp_llm_batch.cli": {"typer", "yaml"},
    "kfp_llm_batch.client": {
        "cronsim", "google", "jsonschema", "kfp", "kubernetes", "kubernetes_validate", "numpy", "pyarrow", "requests",
        "tenacity", "yaml",
    },
    "kfp_llm_batch.storage.object_store": {"requests", "tenacity"},
    "kfp_llm_batch.dataset.loading": {"jinja2", "numpy", "pyarrow", "requests", "tenacity"},
    "kfp_llm_batch.results.publishing": {"numpy", "pyarrow", "requests", "tenacity"},
    "kfp_llm_batch.generation.generating": {
        "filelock", "jsonschema", "numpy", "pyarrow", "requests", "rich", "tenacity",
    },
    "kfp_llm_batch.evaluation.comparing": {"jinja2", "numpy", "pyarrow", "requests", "scipy", "tenacity"},
}  # fmt: skip


@pytest.fixture(scope="module")
def declared_modules() -> set[str]:
    """What can be imported of the packages that pyproject.toml asks for."""
    project = PYPROJECT["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    asked = {canonicalize_name(Requirement(text).name) for group in groups for text in group}
    return {
        module for module, names in packages_distributions().items() if asked & {canonicalize_name(n) for n in names}
    }


@pytest.mark.parametrize("module", IMPORTED)
def test_an_import_loads_only_what_is_listed(module, declared_modules):
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(finished.stdout.split()) & declared_modules == IMPORTED[module]


def test_a_shipped_pipeline_is_found_without_putting_pipelines_together():
    script = (
        "import sys; from kfp_llm_batch.shipped import load_pipeline\n"
        "print(load_pipeline('batch_inference').title, *{'kfp', 'kfp_llm_batch.pipelines'} & sys.modules.keys())"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["batch-inference"]


def test_one_version_is_everywhere(wheel_file):
    version = PYPROJECT["project"]["version"]
    assert wheel_file.name.startswith(f"kfp_llm_batch-{version}-")
    assert {__version__, VLLM_CPU_IMAGE.partition(":")[2], DATA_IMAGE.partition(":")[2]} == {version}
    texts = [
        path.read_text()
        for folder in ("components", "pipelines", "docs", "images")
        for path in (ROOT / folder).rglob("*.yaml")
    ]
    tags = {tag for text in texts for tag in re.findall(rf"{re.escape(REGISTRY)}/[\w-]+:([\w.]+)", text)}
    assert tags == {version}


def test_the_changelog_is_in_its_form():
    versions, kinds = [], []
    for line in (ROOT / "CHANGELOG.md").read_text().splitlines():
        versions += re.findall(r"^## (.*)", line)
        kinds += re.findall(r"^### (.*)", line)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def locked() -> dict[str, str]:
    names = (".ci/requirements.lock", "images/vllm-cpu/requirements.lock", "images/vllm-cpu/torch.lock")
    text = "\n".join((ROOT / name).read_text() for name in names)
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("extra", PYPROJECT["project"]["optional-dependencies"])
def test_what_an_extra_asks_for_is_locked(extra):
    versions = locked()
    for text in (*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"][extra]):
        wanted = Requirement(text)
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), text


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
