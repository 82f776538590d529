import re
from collections import Counter
from pathlib import Path

import pytest

from raysearch.modalities.text import docstrings
from raysearch.modalities.text.docstrings import LIBRARIES, PER_LABEL, distinct, first_paragraphs, mask_names
from raysearch.modalities.text.readers import TextRows


@pytest.fixture(scope="module")
def rows() -> dict[str, TextRows]:
    return docstrings.load_rows()


@pytest.mark.slow
def test_labelled_splits_are_balanced(rows: dict[str, TextRows]) -> None:
    for part, count in PER_LABEL.items():
        assert Counter(rows[part].labels) == dict.fromkeys(LIBRARIES, count)
    assert rows["domain"].labels == []
    assert len(rows["domain"]) > 4000


def test_texts_contain_no_library_name_or_alias(rows: dict[str, TextRows]) -> None:
    names = "|".join([*LIBRARIES, "pytorch", "scikit", "np", "pd", "plt", "mpl", "pyplot", "rllib", "huggingface"])
    left = re.compile(rf"(?<![a-z])(?:{names})(?![a-z])|torch|numpy|pandas|scipy|sklearn|matplotlib|transformers")
    assert [t for split_rows in rows.values() for t in split_rows.texts if left.search(t.lower())] == []
    camel = re.compile(r"\bRay[A-Z]|[a-z]Ray\b")
    assert [t for split_rows in rows.values() for t in split_rows.texts if camel.search(t)] == []


def test_texts_have_distinct_beginnings(rows: dict[str, TextRows]) -> None:
    texts = [text for split_rows in rows.values() for text in split_rows.texts]
    assert len(set(texts)) == len(texts)
    beginnings = Counter(" ".join(re.findall(r"[a-z]+", text.lower())[:8]) for text in texts)
    assert max(beginnings.values()) == 1


def test_example_order_is_independent_of_labels(rows: dict[str, TextRows]) -> None:
    for part in PER_LABEL:
        half = rows[part].labels[: len(rows[part]) // 2]
        assert min(Counter(half).values()) > len(half) / len(LIBRARIES) * 0.6


def test_second_load_reads_the_cache(rows: dict[str, TextRows], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "collect", lambda: pytest.fail("collected again"))
    assert docstrings.load_rows() == rows


def test_changed_recipe_collects_texts_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[dict[str, list[str]]] = []

    def collect() -> dict[str, list[str]]:
        made.append({label: [f"{label} {i} {len(made)}" for i in range(400)] for label in LIBRARIES})
        return made[-1]

    monkeypatch.setattr(docstrings, "collect", collect)
    first = docstrings.load_rows()
    assert docstrings.load_rows() == first
    monkeypatch.setattr(docstrings, "RECIPE", "next")
    assert docstrings.load_rows() != first
    assert len(made) == 2
    assert len(list((tmp_path / "raysearch").iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A torch.Tensor or np.ndarray", "A library.Tensor or library.ndarray"),
        ("Whether PyTorch is there: is_torch_available", "Whether library is there: is_library_available"),
        ("An array, an input, a display of arrays", "An array, an input, a display of arrays"),
        ("RayTask runs in Ray, asRay too", "libraryTask runs in library, aslibrary too"),
        ("scikit-learn, sklearn and SciPy", "library, library and library"),
        ("A Transformer layer of Transformers", "A Transformer layer of library"),
        ("set np_dtype, pd.NA and _NP", "set library_dtype, library.NA and _library"),
    ],
)
def test_masking_replaces_library_names_but_not_other_words(text: str, expected: str) -> None:
    assert mask_names(text) == expected


def test_first_paragraphs_keeps_docstrings_of_8_to_60_words() -> None:
    source = '''
"""The first paragraph of this module has
exactly nine words.

The second is left out."""
try:
    class A:
        """Too short."""
        async def f(self):
            """One two three four five six seven eight"""
except ImportError:
    def g():
        """A function in a handler is read as well."""
x = """a string that is no docstring is left out of this"""
def h():
    """{long}"""
'''.replace("{long}", "word " * 61)
    assert sorted(first_paragraphs(source)) == [
        "A function in a handler is read as well.",
        "One two three four five six seven eight",
        "The first paragraph of this module has exactly nine words.",
    ]


def test_distinct_drops_texts_shared_by_two_libraries() -> None:
    begin = "one two three four five six seven eight"
    labelled_texts = [
        ("torch", f"{begin} b"),
        ("torch", f"{begin} a"),
        ("numpy", "1 2 3 only here"),
        ("numpy", "four: both"),
    ]
    texts = distinct([*labelled_texts, ("ray", "four, both")])
    assert texts["torch"] == [f"{begin} a"]
    assert texts["numpy"] == ["1 2 3 only here"]
    assert texts["ray"] == []


def test_source_libraries_are_raysearch_dependencies() -> None:
    import importlib.metadata

    def requirement_names(name: str) -> set[str]:
        return {
            re.split(r"[^\w.-]", need)[0].lower()
            for need in importlib.metadata.requires(name) or ()
            if "extra" not in need
        }

    direct = requirement_names("raysearch")
    reached = direct.union(*(requirement_names(name) for name in direct))
    assert set(LIBRARIES.values()) <= reached
