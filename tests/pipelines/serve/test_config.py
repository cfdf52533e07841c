"""The shipped settings, read by what will read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from jobs.serve import DEFAULT_CONFIG, application
from pipelines.config import load_config
from pipelines.serve.config import ServeConfig
from pipelines.serve.deployment import ROUTER

CLUSTER = DEFAULT_CONFIG.with_name("serve_cluster.yaml")


def test_the_laptop_configuration() -> None:
    config = load_config(ServeConfig, DEFAULT_CONFIG, [])
    assert config.auth.required and not config.media.allow_public


def test_serve_deploy_takes_the_cluster_configuration(tiny: Path, tmp_path: Path) -> None:
    """Whole, but for the places that only its cluster has."""
    (told,) = ServeDeploySchema.model_validate(yaml.safe_load(CLUSTER.read_text())).applications
    assert told.import_path == f"{application.__module__}:{application.__name__}"
    args = told.args | {"workdir": str(tmp_path)}
    args["models"] = [{**model, "path": str(tiny), "store": None} for model in args["models"]]
    endpoint = application(args)
    _, models, records = endpoint._bound_deployment.init_args
    (model,) = models.values()
    deployment = model._bound_deployment
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 8)
    assert deployment._deployment_config.request_router_config.request_router_class == ROUTER
    assert deployment.ray_actor_options["num_gpus"] == 1
    assert records is not None


@pytest.mark.parametrize("change", [{"min_replicas": 3, "max_replicas": 2}, {"name": "a b"}])
def test_impossible_models_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"min_replicas|name"):
        ServeConfig.model_validate({"models": [{"name": "tiny", "path": "tiny", **change}]})
