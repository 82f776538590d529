"""An export is uploaded as it lies in its folder; tried against a hub on this machine, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_hub import FakeHub, fake_hub

from raysearch.errors import SpecError
from raysearch.export.hub import check_repository

PUSH = """
import sys
from pathlib import Path
from raysearch.errors import RunError
from raysearch.export.hub import push_export
try:
    print(push_export(Path(sys.argv[1]), "team/model", public=sys.argv[2] == "public"))
except RunError as error:
    print("refused:", error)
"""
CARD = "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags: [raysearch]\n---\n# A model\n"


def push(hub: FakeHub, folder: Path, token: str, visibility: str) -> str:
    """Uploads in a fresh interpreter, because the library reads its address when it is imported."""
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), visibility],
        env={**os.environ, **settings, "HF_HOME": str(folder.parent / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.slow
def test_export_is_uploaded_with_its_card(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "nested").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "nested" / "plan.json").write_text("{}")
    with fake_hub() as hub:
        assert push(hub, folder, "right", "private").endswith("/team/model/commit/" + "1" * 40)
        assert hub.files == {
            "README.md": CARD.encode(),
            "config.json": b'{"model_type": "bert"}',
            "nested/plan.json": b"{}",
        }
        (declared,) = hub.repositories.values()
        assert set(hub.repositories) == {"team/model"}
        assert declared.get("private") is True or declared.get("visibility") == "private"
        refused = push(hub, folder, "wrong", "public")
    assert refused.startswith("refused: team/model was not uploaded: ")
    assert "log in with `hf auth login`, or set HF_TOKEN" in refused


def test_repository_has_an_owner_and_a_name() -> None:
    check_repository("team/model-1.0")
    for name in ("model", "a/b/c", "../x", "team/", "-a/b"):
        with pytest.raises(SpecError, match="is no repository; name one as ORG/NAME"):
            check_repository(name)
