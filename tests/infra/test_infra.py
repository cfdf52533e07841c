"""What lies under infra/ fits the project and the tools that read it, as far as can be told without running it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.config import load_config
from pipelines.evaluate.config import EvaluateConfig
from pipelines.extract.config import ExtractConfig
from pipelines.train.config import TrainConfig
from pipelines.train.deepspeed_engine import configuration

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
TEXTS = sorted(path for path in INFRA.rglob("*") if path.is_file())
YAMLS = sorted(INFRA.rglob("*.yaml"))
KUBERAY = sorted((INFRA / "kuberay").glob("*.yaml"))
SCHEMAS = ROOT.parent / "shared" / "data" / "kuberay-crds"
CONFIGS = {"jobs.extract": ExtractConfig, "jobs.train": TrainConfig, "jobs.evaluate": EvaluateConfig}


def relative(path: Path) -> str:
    return str(path.relative_to(INFRA))


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", YAMLS, ids=relative)
def test_yaml_parses(path: Path) -> None:
    assert documents(path) and all(documents(path))


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_commands_and_files_exist(path: Path) -> None:
    text = path.read_text()
    modules = re.findall(r"python -m ((?:jobs|pipelines|tests)[\w.]*)", text)
    assert not [module for module in modules if find_spec(module) is None]
    files = re.findall(r"(?<![\w/])(?:/opt/longvu/)?((?:jobs/configs|infra|docs)/[\w./-]*\w)", text)
    made_by_users = {"infra/docker/.env"}
    assert not [file for file in files if file not in made_by_users and not (ROOT / file).exists()]


def commands(path: Path) -> list[list[str]]:
    """Words of every ``python -m jobs...`` of a RayJob."""
    entries = [one["spec"]["entrypoint"] for one in documents(path) if one["kind"] == "RayJob"]
    return [entry.split() for entry in entries]


@pytest.mark.parametrize("path", [path for path in KUBERAY if commands(path)], ids=relative)
def test_entry_points_load_their_settings(path: Path) -> None:
    for words in commands(path):
        module, options = words[2], words[3:]
        assert options[0] == "--config"
        config = ROOT / options[1].removeprefix("/opt/longvu/")
        load_config(CONFIGS[module], config, options[2:])


@pytest.fixture(scope="module")
def schemas() -> dict[str, jsonschema.Validator]:
    """A validator of each kind of KubeRay. 3 MB of YAML: libyaml reads it ten times as fast as Python."""
    if not SCHEMAS.is_dir():
        pytest.skip("KubeRay's schemas are not here")
    validators = {}
    for file in SCHEMAS.glob("*.yaml"):
        definition = yaml.load(file.read_bytes(), yaml.CSafeLoader)["spec"]
        (version,) = [one for one in definition["versions"] if one["name"] == "v1"]
        schema = closed(version["schema"]["openAPIV3Schema"])
        validators[definition["names"]["kind"]] = jsonschema.Draft202012Validator(schema)
    return validators


@pytest.mark.parametrize("path", KUBERAY, ids=relative)
def test_kuberay_knows_every_field(path: Path, schemas: dict[str, jsonschema.Validator]) -> None:
    checked = [one for one in documents(path) if one["kind"] in schemas]
    assert checked or path.name == "namespace.yaml", "no document of KubeRay's"
    for document in checked:
        schemas[document["kind"]].validate(document)


def test_a_field_that_kuberay_does_not_know_is_refused(schemas: dict[str, jsonschema.Validator]) -> None:
    (job,) = [one for one in documents(INFRA / "kuberay" / "extract.yaml") if one["kind"] == "RayJob"]
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        schemas["RayJob"].validate(job)


def closed(schema: Any) -> Any:
    """A schema that refuses fields it does not name, as the API server does."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(value) for name, value in schema.items()}
    open_ended = "x-kubernetes-preserve-unknown-fields" in schema or "additionalProperties" in schema
    if schema.get("type") == "object" and "properties" in schema and not open_ended:
        schema["additionalProperties"] = False
    return schema


def test_the_service_serves_what_the_configuration_says() -> None:
    (service,) = documents(INFRA / "kuberay" / "serve.yaml")
    served = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert served == yaml.safe_load((ROOT / "jobs" / "configs" / "serve_cluster.yaml").read_text())


def test_ray_accepts_the_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((INFRA / "ray" / "cluster.yaml").read_text())))


def test_secrets_are_not_in_the_tree() -> None:
    assert not [path for path in TEXTS if path.name == ".env"]
    for line in (INFRA / "docker" / ".env.example").read_text().splitlines():
        name, _, value = line.partition("=")
        assert line.startswith("#") or not value or name == "AWS_DEFAULT_REGION", line


def test_compose_names_only_what_is_there() -> None:
    compose = yaml.safe_load((INFRA / "docker" / "compose.yaml").read_text())
    declared = set(re.findall(r"^(\w+)=", (INFRA / "docker" / ".env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (INFRA / "docker" / "compose.yaml").read_text()))
    assert used == declared
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", (INFRA / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= compose["services"].keys()
        if "build" in service:
            assert (INFRA / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
            assert service["build"]["target"] in stages
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"]


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker's client is not here")
def test_compose_accepts_the_file() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not here")
    command = ["docker", "compose", "--env-file", "/dev/stdin", "-f", INFRA / "docker" / "compose.yaml", "config"]
    lines = (INFRA / "docker" / ".env.example").read_text().replace("=\n", "=x\n")
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dashboard_and_rules_speak_of_metrics_that_exist() -> None:
    source = "".join(path.read_text() for path in (ROOT / "pipelines" / "serve").glob("*.py"))
    ours = set(re.findall(r'"(longvu_\w+)"', source))
    for file in ("dashboard.json", "rules.yaml"):
        named = set(re.findall(r"\blongvu_\w+", (INFRA / "grafana" / file).read_text()))
        assert named
        unknown = {name for name in named if re.sub(r"_(total|bucket|sum|count)$", "", name) not in ours}
        assert not unknown, f"{file}: no such metrics: {sorted(unknown)}"
    panels = json.loads((INFRA / "grafana" / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("stage", ["image", "video"])
def test_deepspeed_files_are_what_the_engine_uses(stage: str) -> None:
    config = load_config(TrainConfig, ROOT / "jobs" / "configs" / f"train_7b_{stage}.yaml")
    written = json.loads((INFRA / "deepspeed" / f"train_7b_{stage}.json").read_text())
    assert written == configuration(config.stage, config.engine)


def test_the_policy_allows_what_jobs_do_and_no_more() -> None:
    statements = json.loads((INFRA / "aws" / "policy.json").read_text())["Statement"]
    actions = {action for statement in statements for action in statement["Action"]}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"} <= actions
    assert not [action for action in actions if "*" in action]
    writable = [s["Resource"] for s in statements if "s3:PutObject" in s["Action"]]
    assert all("/" in resource for resources in writable for resource in resources), "never the whole bucket"
