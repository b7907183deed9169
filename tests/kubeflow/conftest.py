"""The test server and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kfp
import pytest

from kfp_llm_batch.client import connect
from tests.kubeflow.server import KubeflowServer, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KubeflowServer]:
    """A server, with the environment set for it; whatever it answered was what the contract allows."""
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    for name in ("KFP_LLM_BATCH_NAMESPACE", "KFP_LLM_BATCH_COOKIES", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with serving(KubeflowServer()) as running:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", running.host)
        yield running
    assert running.violations == []
    assert not (tmp_path / "context.json").exists()


@pytest.fixture
def client(server: KubeflowServer) -> kfp.Client:
    """kfp's own client, connected to the server."""
    return connect()
