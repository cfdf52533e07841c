"""The documents tell the truth: their commands run, the tree is the tree, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks, check_command, commands, run_block

README = (ROOT / "README.md").read_text()
# <!-- tested --> before a block: it is executed, one after the other in a folder that holds nothing else.
TESTED = [(language, text) for tested, language, text in blocks(ROOT / "README.md") if tested]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "infra/README.md",
    *(f"docs/{p.name}" for p in sorted(ROOT.glob("docs/*.md"))),
]
COMMANDS = [(document, command) for document in DOCUMENTS for command in commands(ROOT / document)]
FOLDERS = re.search(r"<!-- tree -->\n```text\n(.*?)```", README, re.DOTALL)
FILES = re.search(r"<!-- files -->\n```text\n(.*?)```", (ROOT / "docs" / "tree.md").read_text(), re.DOTALL)
MODULES = [
    path.relative_to(ROOT)
    for top in ("longvu_model", "pipelines", "jobs")
    for path in [*(ROOT / top).rglob("*.py"), *(ROOT / top).rglob("*.yaml")]
    if path.name != "__init__.py"
]


@pytest.mark.parametrize(("document", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_every_command_exists(document: str, command: str) -> None:
    check_command(command)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A newcomer's home and working folder: empty."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(("language", "block"), TESTED, ids=[f"{i}-{lang}" for i, (lang, _) in enumerate(TESTED)])
def test_blocks_run(language: str, block: str, home: Path) -> None:
    """As a user would type them; later blocks use what earlier ones made."""
    run_block(language, block, home)


def test_some_blocks_are_tested() -> None:
    assert TESTED


def test_the_tree_lists_every_folder_of_code_and_nothing_else() -> None:
    assert FOLDERS, "README.md has no <!-- tree --> block"
    listed, parents = set(), list[str]()
    for line in FOLDERS[1].splitlines():
        name = line.split()[0]
        parents[(len(line) - len(line.lstrip())) // 2 :] = [name]
        listed.add("".join(parents).rstrip("/"))
    assert not [name for name in listed if not (ROOT / name).exists()], "the tree lists what is gone"
    missing = {str(path.parent) for path in MODULES} - listed
    assert not missing, f"missing from the tree: {sorted(missing)}"


def test_the_list_of_files_is_complete_and_true() -> None:
    assert FILES, "docs/tree.md has no <!-- files --> block"
    listed, folder = set(), ""
    for line in filter(None, FILES[1].splitlines()):
        name = line.split()[0]
        if line.startswith(" "):
            listed.add(folder + name)
        else:
            folder = name if name.endswith("/") else ""
            assert (ROOT / name).exists(), f"docs/tree.md lists {name}, which is gone"
    gone = [name for name in listed if not (ROOT / name).exists()]
    assert not gone, f"docs/tree.md lists {gone}, which are gone"
    unlisted = {str(path) for path in MODULES} - listed
    assert not unlisted, f"missing from docs/tree.md: {sorted(unlisted)}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_files_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}, which is gone"
