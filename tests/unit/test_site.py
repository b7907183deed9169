"""What the docs' site is made of; `make docs` builds it and checks anchors besides."""

import pytest

from kfp_llm_batch import client, schemas
from kfp_llm_batch.evaluation.scorers.registry import scorer_names
from tools import site
from tools.reference import reference_pages


@pytest.mark.parametrize("page", site.pages(), ids=lambda page: str(page.relative_to(site.ROOT)))
def test_everything_that_a_page_links_to_is_there(page):
    assert not [target for target in site.linked(page) if not target.exists()]


def test_the_reference_names_all_that_there_is():
    reference = reference_pages()
    assert all(f"## {name}\n" in reference["client.md"] for name in client.__all__)
    assert all(f"## {name}\n" in reference["scorers.md"] for name in scorer_names())
    assert all(f"`{code}`" in reference["errors.md"] for code in (*schemas.FAULT_CODES, *schemas.FAILURE_CODES))
    assert all(f"| `{field.name}` |" in reference["columns.md"] for field in schemas.COMPLETION_FIELDS)
    for folder in ("components", "pipelines"):
        names = [path.parent.name for path in (site.ROOT / folder).glob("*/README.md")]
        assert names
        assert all(f"## {name}\n" in reference[f"{folder}.md"] for name in names)


def test_links_to_folders_lead_to_a_page_that_lists_them(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "SOURCE", tmp_path / "build")
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "secret.yaml").write_text("kind: Secret")
    page = tmp_path / "README.md"
    page.write_text("[all](manifests)\n\n```text\n[code](manifests)\n```\n")
    site.take_over(page)
    assert (tmp_path / "build" / "README.md").read_text() == page.read_text().replace(
        "[all](manifests)", "[all](manifests/README.md)"
    )
    assert "(secret.yaml)" in (tmp_path / "build" / "manifests" / "README.md").read_text()
    assert (tmp_path / "build" / "manifests" / "secret.yaml").read_text() == "kind: Secret"
