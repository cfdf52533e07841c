"""From a served model back to every source: store, both stages of training, evaluation and endpoint.

Without Ray; ``tests/test_quickstarts.py`` asks for the lineage of an endpoint that all jobs made as a user runs them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import jobs.corpus
import jobs.evaluate
import jobs.lineage
import jobs.train
from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract.config import ExtractConfig
from pipelines.extract.extraction import record
from pipelines.extract.towers import load_towers
from pipelines.lineage import Lineage, lineage
from pipelines.provenance import Provenance, checkpoint_uri
from pipelines.tracking import EXPERIMENT, read_history, tracking_uri
from pipelines.tracking.records import DESCRIPTION_TAG
from pipelines.video_models.loading import checkpoint_digest
from tests.pipelines.extract.conftest import extract_without_ray

DEMO = Path(jobs.corpus.__file__).parent / "configs" / "corpus_demo.yaml"


@dataclass(frozen=True)
class Chain:
    """A workdir in which everything was done once."""

    folder: Path
    media: Path
    model: Path

    @property
    def workdir(self) -> Path:
        return self.folder / "runs"

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that was extracted, computed here."""
        files = [path for path in self.media.rglob("*") if path.suffix in (".png", ".mp4")]
        return {path.as_uri(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def run(self, stage: str) -> str:
        """Id of the newest run of a stage."""
        return next(run.run_id for run in read_history(self.workdir).runs.values() if run.stage == stage)

    def lineage(self, subject: object) -> Lineage:
        return lineage(str(subject), self.workdir)


def done(main: object, *words: object) -> None:
    assert main([str(word) for word in words]) == 0, words  # type: ignore[operator]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, workdir: Path) -> Iterator[Chain]:
    from pipelines.serve.config import ServeConfig
    from pipelines.serve.deployment import Records

    folder = tmp_path_factory.mktemp("chain")
    media, runs, tiny = folder / "media", folder / "runs", workdir / "models" / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        small = ("stills=2", "videos=2", "heldout=1", "seconds=28", "width=64", "height=64")
        done(jobs.corpus.main, media, *small, "--config", DEMO)
        features = {"siglip": True}
        config = ExtractConfig(source=str(media), store=str(runs), workdir=str(runs), features=features)
        extracted = extract_without_ray(config, load_towers(tiny, ("dinov2", "siglip")))
        record(config, extracted)
        store = storage.local_path(extracted.uri)
        data = (f"data.media_root={media}", f"data.store={store}", "data.online=false")
        once = ("stage.epochs=1", "workers.count=1", "planned_ranks=1", f"output={runs}", f"workdir={runs}")
        model = tiny
        for stage in ("stills", "train"):
            rows, name = f"data.annotations={media / stage}.json", f"name={stage}"
            done(jobs.train.train_main, "--in-process", rows, name, *data, *once, f"model={model}")
            (run,) = (runs / "train").glob(f"{stage}-*")
            checkpoint = max((run / "checkpoints").iterdir())
            model = folder / stage
            done(jobs.train.export_main, checkpoint, model)
        task = ("task=needle_synthetic", f"data={media / 'heldout'}", f"store={store}", "frames=fps:1")
        done(jobs.evaluate.main, "--in-process", *task, f"model={model}", f"output={runs}", f"workdir={runs}")
        served = {"name": "needles", "path": str(model), "store": str(store)}
        endpoint = Records(ServeConfig.model_validate({"workdir": runs, "models": [served]}))
        endpoint.serving("needles", checkpoint_uri(model), checkpoint_digest(model))
        yield Chain(folder, media, model)


def test_a_served_model_leads_back_to_every_source(chain: Chain) -> None:
    found = chain.lineage("needles")
    assert not found.problems
    assert found.source_digests == chain.digests and len(chain.digests) == 5
    way = [node for node in found.origin.walk() if node.kind != "store"]
    kinds = [node.kind for node in way if node.kind in ("serve", "model", "train")]
    assert kinds == ["serve", "model", "train", "model", "train", "model"]
    base = [node for node in way if node.kind == "model"][-1]
    assert base.name == "tiny" and not base.facts["trained_here"]
    assert [node.name for node in way if node.kind == "annotations"] == ["stills.json", "train.json"]
    stores = [node for node in found.origin.walk() if node.kind == "store"]
    assert len(stores) == 3  # both trainings' and the endpoint's
    assert all([link.kind for link in store.links] == ["extract"] for store in stores)


def test_every_name_of_a_model_leads_to_it(chain: Chain) -> None:
    origin = Provenance.read(chain.model)
    assert origin is not None
    by_run = chain.lineage(chain.run("train"))
    [made] = [use for use in by_run.uses if use.kind == "model"]
    names = (chain.model, origin.checkpoint, made.id, made.id[:9], checkpoint_digest(chain.model)[:16])
    found = [chain.lineage(name).origin for name in names]
    assert {node.id for node in found} == {made.id}
    assert {node.links[0].id for node in found} == {origin.mlflow_run}


def test_runs_are_told_apart_in_mlflow(chain: Chain) -> None:
    """What its user interface has of them: name, description, and metrics that it puts under headings by slashes."""
    runs = read_history(chain.workdir).runs.values()
    assert len({run.name for run in runs}) == len(runs) == 5
    assert all(run.name.startswith(f"{run.stage} ") and run.tags[DESCRIPTION_TAG] for run in runs)
    named = {name for run in runs for name in run.metrics}
    assert {"loss", "loss/video", "accuracy_n", "count/rows", "mean/kept_frames"} <= named
    assert not [name for name in named if "." in name]
    client = MlflowClient(tracking_uri(chain.workdir))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None and experiment.tags[DESCRIPTION_TAG]
    models = client.search_logged_models([experiment.experiment_id])
    assert all(model.tags[DESCRIPTION_TAG] for model in models if model.source_run_id)


def test_a_store_leads_forward_to_what_was_made_of_it(chain: Chain) -> None:
    (store,) = (chain.workdir / "features").iterdir()
    found = chain.lineage(store)
    assert found.origin.kind == "extract" and found.source_digests == chain.digests
    assert sorted(use.kind for use in found.uses) == ["evaluate", "serve", "train", "train"]
    stills = next(use for use in found.uses if use.name.startswith("train stills "))
    assert [node.kind for node in stills.walk()] == ["train", "model", "train", "model", "serve", "evaluate"]


def test_an_evaluation_leads_back_to_its_questions_and_its_model(chain: Chain) -> None:
    found = chain.lineage(chain.run("evaluate"))
    assert not found.problems and found.source_digests == chain.digests
    assert {"evaluate", "benchmark", "store", "model", "train", "extract"} <= {
        node.kind for node in found.origin.walk()
    }


def test_the_command_prints_a_tree_and_json(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    done(jobs.lineage.main, "needles", "--workdir", chain.workdir, "--sources")
    tree = capsys.readouterr().out
    assert tree.startswith('serve "serve longvu: needles ')
    assert all(digest in tree for digest in chain.digests.values())
    assert "init: model" in tree and "extracted by: extract" in tree
    done(jobs.lineage.main, chain.model, "--workdir", chain.workdir, "--json")
    as_json = json.loads(capsys.readouterr().out)
    assert as_json["complete"] and as_json["source_digests"] == chain.digests
    assert {use["kind"] for use in as_json["uses"]} == {"serve", "evaluate"}


def test_a_link_that_is_gone_is_named(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    client = MlflowClient(tracking_uri(chain.workdir))
    extraction = chain.run("extract")
    client.delete_run(extraction)
    try:
        found = chain.lineage("needles")
        assert any("knows no extraction that made it" in problem for problem in found.problems)
        assert jobs.lineage.main(["needles", "--workdir", str(chain.workdir)]) == 1
        assert "incomplete: " in capsys.readouterr().err
    finally:
        client.restore_run(extraction)
    assert not chain.lineage("needles").problems


def test_what_nobody_knows_is_one_line(chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for subject in ("0123456789abcdef", tmp_path, "nobody"):
        assert jobs.lineage.main([str(subject), "--workdir", str(chain.workdir)]) == 2
        assert "knows no run, checkpoint, store or served model" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no runs"):
        lineage("needles", tmp_path)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    Provenance("s3://elsewhere/checkpoints/8", "f" * 32).write(stranger)
    with pytest.raises(UserError, match="was exported from s3://elsewhere/checkpoints/8"):
        chain.lineage(stranger)


def test_sources_decoded_while_training_are_not_called_known(chain: Chain) -> None:
    run = chain.run("train")
    client = MlflowClient(tracking_uri(chain.workdir))
    output = storage.local_path(read_history(chain.workdir).runs[run].output)
    whole = (output / "sources.parquet").read_bytes()
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(whole))
    online = table.set_column(2, "video_id", pa.nulls(len(table), pa.string()))
    online = online.set_column(3, "status", pa.array(["online"] * len(table)))
    pq.write_table(online, output / "sources.parquet")
    client.log_artifact(run, os.fspath(output / "sources.parquet"))
    try:
        assert any("never hashed" in problem for problem in chain.lineage(run).problems)
    finally:
        (output / "sources.parquet").write_bytes(whole)
        client.log_artifact(run, os.fspath(output / "sources.parquet"))
