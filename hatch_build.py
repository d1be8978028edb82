"""What a package index shows: the README, whose links to files of the repository must not end there."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: Blocks of code, which stay as they are; and links, or pictures, whose target is a file of the repository.
_PARTS = re.compile(r"^```.*?^```|(!?)\[([^\[\]]*)\]\((?!https?://|#|mailto:)([^()\s]+)\)", re.DOTALL | re.MULTILINE)


class CustomMetadataHook(MetadataHookInterface):
    """Takes the README as the long description when a distribution is built."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds the readme, with links to the repository that `[project.urls]` calls Source, if it does."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": published(text, source)}


def published(text: str, source: str | None) -> str:
    """A page with absolute links to files of the repository at `source`.

    Without an address a link becomes its words, and a picture is left out.
    """

    def absolute(part: re.Match[str]) -> str:
        picture, words, target = part.groups()
        if target is None:
            return part[0]
        if source is None:
            return "" if picture else words
        return f"{picture}[{words}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/HEAD/{target})"

    return _PARTS.sub(absolute, text)
