"""Docker and the built images, which every test here is about; `make test-image` runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kfp_llm_batch.models.resolving import resolve_model
from tests.images.docker_images import IMAGES, ROOT, Docker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.image)


@pytest.fixture(scope="session")
def docker() -> Docker:
    """Docker with both images; skips where it cannot run, which on CI is a failure."""
    found = subprocess.run([ROOT / "images/docker"], capture_output=True, text=True, check=False)
    if found.returncode != 0 and os.environ.get("CI") != "true":
        pytest.skip(found.stderr.strip())
    assert found.returncode == 0, found.stderr
    docker = Docker(found.stdout.strip())
    missing = [name for name, image in IMAGES.items() if docker("image", "inspect", image).returncode != 0]
    assert not missing, f"run images/build {' '.join(missing)}"
    return docker


@pytest.fixture(scope="session")
def model_mount(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the demo model, converted once on the host, for containers whose user is nobody here."""
    folder = tmp_path_factory.mktemp("images") / "model"
    shutil.copytree(resolve_model("demo://smollm2-135m-instruct").folder, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return str(folder)
