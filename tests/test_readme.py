"""The README tells the truth: its commands run, its tree is the tree, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from jobs.cli import JOBS, build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
# <!-- tested --> before a block: it is executed, one after the other in a folder that holds nothing else.
BLOCKS = re.findall(r"(<!-- tested -->\n)?```(bash|python)\n(.*?)```", README, re.DOTALL)
TESTED = [(language, block) for mark, language, block in BLOCKS if mark]
COMMANDS = [
    line.split("#")[0].strip()
    for _, language, block in BLOCKS
    if language == "bash"
    for line in block.replace("\\\n", "").splitlines()
]
FOLDERS = re.search(r"<!-- tree -->\n```text\n(.*?)```", README, re.DOTALL)
FILES = re.search(r"<!-- files -->\n```text\n(.*?)```", (ROOT / "docs" / "tree.md").read_text(), re.DOTALL)
MODULES = [
    path.relative_to(ROOT)
    for top in ("longvu_model", "pipelines", "jobs")
    for path in [*(ROOT / top).rglob("*.py"), *(ROOT / top).rglob("*.yaml")]
    if path.name != "__init__.py"
]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command])
def test_every_command_exists(command: str) -> None:
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[0] == "longvu" and words[1] in JOBS:
        assert find_spec(JOBS[words[1]][0].split(":")[0])
    elif words[0] == "longvu":
        build_parser().parse_args(words[1:])
    elif "python" in words:  # alone, or after `ray job submit ... --`
        words = words[words.index("python") :]
        assert words[1] == "-m"
        assert find_spec(words[2])
        assert all((ROOT / word).exists() for word in words if word.endswith(".yaml"))
    else:
        assert words[0] in {"git", "cd", "source", "mlflow"}, f"not a command of ours: {command}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A newcomer's home and working folder: empty."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(("language", "block"), TESTED, ids=[f"{i}-{lang}" for i, (lang, _) in enumerate(TESTED)])
def test_blocks_run(language: str, block: str, home: Path) -> None:
    """As a user would type them; later blocks use what earlier ones made."""
    programs = Path(sys.executable).parent
    assert (programs / "longvu").exists(), "the console script is missing: run `make setup`"
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    environment.pop("XDG_CACHE_HOME", None)
    command = ["bash", "-euo", "pipefail", "-c", block] if language == "bash" else [sys.executable, "-c", block]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


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


DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_files_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}, which is gone"
