"""The notebooks of the documentation run from top to bottom in an empty folder, and what they show is HTML."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell and returns the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs_and_shows_itself(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook, names, shown = json.loads(file.read_text(encoding="utf-8")), {}, []
    assert notebook["nbformat"] == 4
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []  # what it shows is of whoever runs it
        if cell["cell_type"] == "code":
            value = run_cell("".join(cell["source"]), names)
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    assert sum(text.startswith("<div>") for text in shown) >= 4
    assert all(text not in ("None", "") for text in shown)


def test_documentation_has_a_notebook() -> None:
    assert NOTEBOOKS
