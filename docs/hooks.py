"""Makes one site of the repository's documents: those of this folder, and what lies elsewhere and is linked from them.

A document keeps the relative links that work where it lies, in a checkout and on GitHub. In the site `docs/` is the root,
`README.md` is the first page, and other files keep their paths.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()(?!\w+:)([^)#\s]+)")  # the target of [text](target) and ![text](target), without its anchor


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `README.md` and every file outside of this folder that a document links to."""
    found = {ROOT / "README.md", *(ROOT / "docs" / file.src_uri for file in files.documentation_pages())}
    queue = sorted(found)
    while queue:
        document = queue.pop()
        for _, target in LINK.findall(document.read_text()) if document.suffix == ".md" else ():
            path = Path(os.path.normpath(document.parent / target))
            if path.is_file() and path not in found:
                found.add(path)
                queue.append(path)
    for path in sorted(found):
        if files.get_file_from_path(place(path)) is None:
            files.append(File.generated(config, place(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between their places in the site."""
    here = Path(str(page.file.abs_src_path))

    def moved(link: re.Match[str]) -> str:
        target = place(Path(os.path.normpath(here.parent / link[2])))
        return link[1] + os.path.relpath(target, Path(page.file.src_uri).parent)

    return LINK.sub(moved, markdown)


def place(path: Path) -> str:
    """Where a file of the repository lies in the site."""
    name = path.relative_to(ROOT).as_posix()
    return "index.md" if name == "README.md" else name.removeprefix("docs/")
