"""The project's description on a package index: README.md without links to files that lie beside it.

A package index renders the description far from the repository, so that relative links and pictures break there. The
repository has no public address to make them absolute. Each link to a file therefore becomes its text with the file's
name, which the source distribution contains, and each picture its alternative text.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?://)[^)]+\)")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://|#|mailto:)([^)#\s]+)[^)]*\)")


def index_description(readme: str) -> str:
    """Returns the text of README.md for a package index."""
    text = _PICTURE.sub(r"*\1* (a picture in the source distribution)", readme)

    def named(link: re.Match[str]) -> str:
        words, file = link.groups()
        return f"`{file}`" if words == file else f"{words} (`{file}`)"

    return _LINK.sub(named, text)


class DescriptionHook(MetadataHookInterface):
    """The metadata field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Sets the description."""
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": index_description(readme)}
