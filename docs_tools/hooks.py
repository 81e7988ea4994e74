"""What mkdocs calls while it builds the site; named in mkdocs.yml."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs_tools.links import linked_files, rewrite, site_path
from docs_tools.offline import loaded_from_elsewhere
from docs_tools.source import PACKAGE, Package
from docs_tools.troubleshooting import MARK, messages_page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ that are linked."""
    root = _root(config)
    for path in linked_files(root):
        files.append(File.generated(config, site_path(path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the messages into their page, and let links lead to where their targets are on the site."""
    root = _root(config)
    if page.file.src_uri == "troubleshooting.md":
        page.meta["search"] = {"boost": 3}  # who pastes an error wants its remedy, not the pages that share its words
        if MARK not in markdown:
            raise PluginError(f"docs/troubleshooting.md lacks the line {MARK}, where the messages go")
        try:
            markdown = markdown.replace(MARK, messages_page(Package.read(root / PACKAGE)))
        except ValueError as error:
            raise PluginError(str(error)) from error
    if page.file.src_uri == "architecture.md":
        page.meta["hide"] = ["toc"]  # its drawings want the room
    source = Path(page.file.abs_src_path or root)
    return rewrite(markdown, source.relative_to(root).as_posix(), root)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that needs the network."""
    found = loaded_from_elsewhere(Path(config.site_dir))
    if found:
        raise PluginError(f"the site would load from elsewhere: {'; '.join(found[:5])}")


def _root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent
