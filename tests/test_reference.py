"""The pages of docs/reference are what their generator writes from the code."""

import importlib.util
from pathlib import Path

import pytest

GENERATOR = Path(__file__).parent.parent / "docs" / "reference" / "generate.py"
SPEC = importlib.util.spec_from_file_location("generate_reference", GENERATOR)
assert SPEC is not None
assert SPEC.loader is not None
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)


@pytest.mark.parametrize("name", generate.PAGES)
def test_reference_page_is_current(name: str) -> None:
    text = (GENERATOR.parent / f"{name}.md").read_text(encoding="utf-8")
    assert text == generate.page_text(name), "run: python docs/reference/generate.py"


def test_reference_generator_reports_a_stale_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.main(["--check"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
