"""What a wheel has beside the package: the manual page and completions, made here; and a description that stands alone.

hatchling runs it (pyproject.toml). What it makes comes from the commands themselves, which need no numpy to be asked.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).parents[1]
COMPLETIONS = {
    "bash": "share/bash-completion/completions/mematlas",
    "zsh": "share/zsh/site-functions/_mematlas",
    "fish": "share/fish/vendor_completions.d/mematlas.fish",
}
MANUAL = "share/man/man1/mematlas.1"
PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n\n?")
LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:)([^)]+)\)")


class BuildHook(BuildHookInterface):
    """Adds what is made to a wheel; where the source itself is installed (pip install -e), nothing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files, and say where they are to be installed."""
        if version == "editable":
            return
        self.made = tempfile.TemporaryDirectory(prefix="mematlas-")
        for number, (path, text) in enumerate(files().items()):
            file = Path(self.made.name, str(number))
            file.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(file)] = path

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take them away."""
        if version != "editable":
            self.made.cleanup()


class MetadataHook(MetadataHookInterface):
    """Makes the long description of the README."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set it."""
        text = standing_alone((ROOT / "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def files() -> dict[str, str]:
    """Return what is made, by where it is to be installed."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
    try:
        import man_page

        from mematlas.cli.completion import script_of
    finally:
        del sys.path[:2]
    made = {path: script_of(shell) for shell, path in COMPLETIONS.items()}
    return {MANUAL: man_page.page()} | made


def standing_alone(readme: str) -> str:
    """Return the README without what leads nowhere from a package index: files of the source are named, not linked.

    >>> standing_alone("![a](docs/a.svg)\\n\\nSee [the guide](docs/guide.md), [man](https://man7.org), [c.md](c.md).")
    'See the guide (`docs/guide.md`), [man](https://man7.org), `c.md`.'
    """

    def named(match: re.Match[str]) -> str:
        text, path = match.groups()
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return LINK.sub(named, PICTURE.sub("", readme))
