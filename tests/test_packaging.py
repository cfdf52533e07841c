"""What pyproject.toml, constraints.txt and the installed environment promise each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What `make setup` installs; `gpu` needs a GPU machine.
INSTALLED_EXTRAS = ("data", "train", "evaluate", "serve", "dev")


def pins() -> dict[str, Version]:
    """constraints.txt as {canonical name: version}; every line must be one exact pin."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    for requirement in requirements:
        assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), f"not an exact pin: {requirement}"
    versions = {canonicalize_name(r.name): Version(str(r.specifier)[2:]) for r in requirements}
    assert len(versions) == len(requirements), "a package is pinned twice"
    return versions


def needed(requirements: list[str]) -> set[str]:
    """Canonical names that `requirements` install here, all the way down, from installed metadata."""
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = [Requirement(r) for r in requirements]
    while pending:
        requirement = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name == "longvu-ray":
            children = [child for extra in extras for child in EXTRAS[extra]]
            pending.extend(Requirement(child) for child in children)
            continue
        for text in distribution(name).requires or []:
            child = Requirement(text)
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                pending.append(Requirement(text.split(";")[0]))
    return {name for name, _ in seen} - {"longvu-ray"}


def project_requirements() -> list[str]:
    return [*PROJECT["dependencies"], f"longvu-ray[{','.join(INSTALLED_EXTRAS)}]"]


def test_constraints_pin_everything_that_setup_installs() -> None:
    missing = needed(project_requirements()) - pins().keys()
    assert not missing, f"no pin in constraints.txt: {sorted(missing)}"


def test_constraints_pin_nothing_else() -> None:
    """A pin that nothing needs is a dependency that somebody removed and forgot."""
    gpu = {canonicalize_name(Requirement(text).name) for text in EXTRAS["gpu"]}
    # CUDA builds of torch bring these in exact versions of torch's own.
    surplus = pins().keys() - needed(project_requirements()) - gpu
    assert not surplus, f"pinned, yet needed by nothing: {sorted(surplus)}"


def test_installed_versions_are_the_pinned_ones() -> None:
    """A local build tag (2.13.0+cpu) is the same release."""
    wrong = {}
    for name, version in pins().items():
        try:
            installed = Version(distribution(name).version)
        except PackageNotFoundError:
            continue
        if installed.public != version.public:
            wrong[name] = f"{installed} installed, {version} pinned"
    assert not wrong, wrong


@pytest.mark.parametrize("text", [r for extra in EXTRAS.values() for r in extra] + PROJECT["dependencies"])
def test_pins_satisfy_the_declared_ranges(text: str) -> None:
    requirement = Requirement(text)
    if canonicalize_name(requirement.name) == "longvu-ray":
        assert set(requirement.extras) <= EXTRAS.keys()
        return
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("target", PROJECT["scripts"].values())
def test_console_scripts_exist(target: str) -> None:
    module, function = target.split(":")
    assert callable(getattr(import_module(module), function))


WITHOUT_THESE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Without:
    '''Finds everything but the modules of some distributions, as if these were not installed.'''
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in MODULES else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context):
        found = PathFinder.find_distributions(context)
        return (one for one in found if one.name.lower().replace("_", "-") not in DISTRIBUTIONS)

MODULES, DISTRIBUTIONS = set(sys.argv[1].split(",")), set(sys.argv[2].split(","))
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Without]
exec(sys.argv[3])
"""


def run_with_only(requirements: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process that can import the project, `requirements` with what they need, and no more."""
    allowed = needed(requirements) | {"longvu-ray"}
    owners = {module: {canonicalize_name(name) for name in names} for module, names in packages_distributions().items()}
    modules = {module for module, names in owners.items() if not names & allowed}
    distributions = {name for names in owners.values() for name in names} - allowed
    command = [sys.executable, "-c", WITHOUT_THESE, ",".join(modules), ",".join(distributions), code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_isolation_isolates() -> None:
    """Guards the test below: in that process Pillow and Ray are not to be had, and NumPy is."""
    for name, status in (("PIL", 1), ("ray", 1), ("numpy", 0)):
        assert run_with_only(["torch", "transformers", "av"], f"import {name}").returncode == status


def test_the_model_imports_where_only_torch_transformers_and_av_are_installed() -> None:
    done = run_with_only(["torch", "transformers", "av"], "import longvu_model; longvu_model.LongVUConfig")
    assert done.returncode == 0, done.stderr


def test_the_model_runs_on_the_core_dependencies_alone() -> None:
    """Without the extras: no Ray, no MLflow, no decord."""
    code = "import longvu_model as m; import longvu_model.video; m.LongVUForConditionalGeneration; m.LongVUProcessor"
    done = run_with_only(PROJECT["dependencies"], code)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_loading_the_heavy_packages() -> None:
    """`longvu --help` answers at once because each command imports what it needs when it runs."""
    code = "import sys, jobs.cli; jobs.cli.build_parser().format_help(); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "ray", "transformers", "mlflow", "numpy", "pydantic"} & set(done.stdout.split())
