"""The pages of the site, a hook of mkdocs.yml.

Files keep their places, so that links between them work here as in the repository. The
API's pages have what the packages export, from the docstrings.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = ("*.md", "CITATION.cff", "docs/**/*.md", "docs/images/*", "configs/**/*.*")
API = ("models", "layers", "ops", "checkpoint", "det", "engine.complexity")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the pages that MkDocs has found by itself.

    Args:
        files: Those of docs/, by paths that begin there, and the theme's.
        config: Of the site. Its navigation is given the API's pages.

    Returns:
        The theme's, and the pages by paths that begin at the root.
    """
    root = Path(config.config_file_path).parent
    kept = [file for file in files if file.src_dir != config.docs_dir]
    sources = [path for pattern in PAGES for path in root.glob(pattern)]
    pages = [
        File.generated(config, str(path.relative_to(root)), abs_src_path=str(path))
        for path in sources
        if "__pycache__" not in path.parts
    ]
    api = [
        File.generated(config, f"api/{name}.md", content=f"::: focal_mm.{name}\n")
        for name in API
    ]
    config.nav.append({"API": [{name: f"api/{name}.md"} for name in API]})
    return Files([*kept, *pages, *api])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drop what docstrings say of names for Sphinx alone: ``:class:``, ``:func:``."""
    return re.sub(r":(class|func|meth|data|mod|attr):(?=<code)", "", html)
