"""Answers leave traces in MLflow, under the run of the endpoint and the LoggedModel of the checkpoint."""

from __future__ import annotations

from typing import Any

from pipelines.tracking import EXPERIMENT, STAGE_TAG, tracking_uri
from tests.pipelines.serve.endpoint import LiveEndpoint, ask, wait_for


def test_an_answer_leaves_a_trace(endpoint: LiveEndpoint) -> None:
    from mlflow.tracking import MlflowClient

    reply = endpoint.client().chat.completions.create(model="other", messages=ask("Trace me"), max_tokens=3)
    client = MlflowClient(tracking_uri(endpoint.config.workdir))
    experiment = wait_for(lambda: client.get_experiment_by_name(EXPERIMENT)).experiment_id

    def mine() -> Any:
        traces = client.search_traces(locations=[experiment], max_results=100)
        found = [trace for trace in traces if "Trace me" in str(trace.data.spans[0].inputs)]
        # A trace can be found a moment before all that is known of it.
        return found[0] if found and "mlflow.modelId" in found[0].info.request_metadata else None

    trace = wait_for(mine)
    root, *stages = trace.data.spans
    assert root.outputs == reply.choices[0].message.content
    assert root.attributes["completion_tokens"] == reply.usage.completion_tokens  # type: ignore[union-attr]
    assert [span.name for span in stages] == ["media", "prompt", "answer"]
    facts = trace.info.request_metadata
    model = client.get_logged_model(facts["mlflow.modelId"])
    assert model.tags["longvu.digest"] == reply.longvu["model_digest"]  # type: ignore[attr-defined]
    run = client.get_run(facts["mlflow.sourceRun"])
    assert run.data.tags[STAGE_TAG] == "serve"
    assert run.data.params["models"]
    assert not any("sha256:" in value for value in run.data.params.values())
