"""What is written in the Markdown files, as tests use it: blocks, commands, and how a block is run."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from jobs.cli import JOBS, build_parser
from pipelines.config import Config, load_config
from pipelines.evaluate.config import EvaluateConfig
from pipelines.extract.config import ExtractConfig
from pipelines.serve.config import ServeConfig
from pipelines.train.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
_CONFIGS: dict[str, type[Config]] = {
    "extract": ExtractConfig,
    "train": TrainConfig,
    "plan": TrainConfig,
    "estimate": TrainConfig,
    "evaluate": EvaluateConfig,
    "eval": EvaluateConfig,
    "serve": ServeConfig,
}
_PROGRAMS = "aws cd cp curl docker echo export git hf kill kubectl make mlflow openssl pip ray serve source until wait"
# What every run must be told, and a line of documentation may leave open.
_OPEN = {"extract": ("source=x", "store=x"), "eval": ("task=x", "data=x"), "evaluate": ("task=x", "data=x")}


def blocks(path: Path, language: str = "bash|python") -> list[tuple[bool, str, str]]:
    """Whether it is marked ``<!-- tested -->``, language and text of every block."""
    found = re.findall(rf"(<!-- tested -->\n)?```({language})\n(.*?)```", path.read_text(), re.DOTALL)
    return [(bool(mark), kind, text) for mark, kind, text in found]


def commands(path: Path) -> list[str]:
    """Lines of the shell blocks, joined where they go on, without comments."""
    lines = [line for _, _, text in blocks(path, "bash") for line in text.replace("\\\n", "").splitlines()]
    return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def check_command(command: str) -> None:
    """Hold a command against the real entry points: it exists, its options parse, its settings and files are there.

    Raises:
        AssertionError, SystemExit, UserError: it does not.
    """
    words = shlex.split(re.sub(r"\$\(.*?\)", "FOUND", command).rstrip("&;"))
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if "|" in words:
        words = words[words.index("|") + 1 :]
    if words[:3] == ["ray", "job", "submit"]:
        words = words[words.index("--") + 1 :]
    if not words:
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), command
    elif words[0] == "longvu":
        _check_job(words[1], words[2:])
    elif words[0] == "python":
        assert words[1] == "-m" and find_spec(words[2]), command
        if words[2].startswith("jobs."):
            name = words[2].removeprefix("jobs.")
            name, rest = (words[3], words[4:]) if words[3:4] and words[3] in _CONFIGS else (name, words[3:])
            _check_job(name, rest)
    else:
        assert words[0] in _PROGRAMS.split(), f"not a command of ours: {command}"
        files = [word for word in words if re.match(r"(jobs|infra)/.*\.(yaml|json)$", word)]
        assert not [file for file in files if not (ROOT / file).exists()], command


def _check_job(name: str, words: list[str]) -> None:
    if name in _CONFIGS:
        module = import_module(f"jobs.{ {'plan': 'train', 'estimate': 'train', 'eval': 'evaluate'}.get(name, name) }")
        settings = [word for word in words if re.match(r"[a-z_.]+=", word)]
        flags = [word for word in words if word not in settings and word != "..."]
        config = Path(flags.pop(flags.index("--config") + 1)) if "--config" in flags else module.DEFAULT_CONFIG
        make_parser = getattr(module, "build_parser", None) or module._parser
        parser = make_parser(*([name] if module.__name__ == "jobs.train" else []))
        known = {option for action in parser._actions for option in action.option_strings} | {"--gpus", "--in-process"}
        assert {flag for flag in flags if flag.startswith("--")} <= known, f"{name}: {flags}"
        given = {setting.partition("=")[0] for setting in settings}
        settings += [one for one in _OPEN.get(name, ()) if one.partition("=")[0] not in given]
        load_config(_CONFIGS[name], ROOT / config, settings)
    elif name in JOBS:
        assert find_spec(JOBS[name][0].split(":")[0]), name
    else:
        build_parser().parse_args([name, *words])


def run_block(language: str, text: str, home: Path, timeout_s: float = 480) -> str:
    """Run a block as a user would type it, in a folder that is home; returns what it printed.

    Raises:
        AssertionError: it failed, or took longer; nothing of it goes on running.
    """
    programs = Path(sys.executable).parent
    assert (programs / "longvu").exists(), "the console script is missing: run `make setup`"
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    environment.pop("XDG_CACHE_HOME", None)
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    with (home / "printed").open("w+") as printed, (home / "complaints").open("w+") as complaints:
        shell = subprocess.Popen(
            command, cwd=home, env=environment, stdout=printed, stderr=complaints, start_new_session=True
        )
        try:
            status = shell.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            # Whatever of the session is left: a server in the background, when a later line failed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        output, errors = ((home / name).read_text() for name in ("printed", "complaints"))
    assert status == 0, f"{text}\nended with {status}\n{output}\n{errors}"
    return output
