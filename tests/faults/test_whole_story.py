"""The whole story on a cluster: every stage by `ray job submit`, everything that stages make in a bucket.

Two nodes with token authentication, and an MLflow server that keeps its artifacts in the same bucket. Only the models,
the benchmark's files and the workdir are on a shared file system. The second node is killed in the middle of training
and replaced; its replacement is killed in the middle of the evaluation.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from jobs.serve import PROXY
from pipelines import storage
from pipelines.corpus import CorpusConfig, CorpusManifest, write_corpus
from pipelines.evaluate.results import Results
from pipelines.serve.auth import new_key
from tests.faults import evaluation, training
from tests.faults.content import read_content
from tests.faults.job import Job
from tests.faults.mlflow_server import mlflow_server
from tests.faults.s3_server import S3Server, environment, free_port
from tests.faults.two_node_cluster import TwoNodeCluster, two_node_cluster
from tests.pipelines.serve.endpoint import ask, video_part

LEARNED, UNSEEN, SECONDS = 8, 12, 24
EPOCHS, BATCH = 4, 2
NAME = "story"
# A busy machine's server may take longer than a job's patience with it; jobs cope, but then the records come later.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
LINEAGE = (sys.executable, "-m", "jobs.lineage")
ON_TWO_NODES = ["workers.count=2", "workers.cpus=1.2", "workers.threads=1"]


@dataclasses.dataclass(frozen=True)
class Story:
    """Where everything is.

    Args:
        root: the prefix of the bucket that everything goes to, as this machine's folder.
        uri: the same, as the jobs name it.
        shared: what the nodes see as a file system.
        learned, unseen: corpora; videos and annotations of the first and videos of the second are in the bucket.
        tiny: folder of the model to start from.
    """

    cluster: TwoNodeCluster
    copy: Path
    root: Path
    uri: str
    shared: Path
    learned: CorpusManifest
    unseen: CorpusManifest
    tiny: Path

    def job(self, module: str, words: list[str]) -> Job:
        """A stage, submitted."""
        return Job(words, self.shared / "logs", self.cluster.variables, self.cluster.submit(self.copy, module))

    def run(self, module: str, words: list[str], meanwhile: Callable[[Job], None] = lambda job: None) -> str:
        """What a stage printed, which ended well."""
        with self.job(module, words) as job:
            meanwhile(job)
            assert job.wait() == 0, said(job)
            return job.stdout

    def here(self, uri: str) -> Path:
        """An object of the bucket as this machine's file."""
        return self.root / uri.removeprefix(f"{self.uri}/")

    @property
    def videos(self) -> dict[str, str]:
        """SHA-256 of all videos in the bucket, by URI."""
        files = [*self.root.glob("learned/videos/*.mp4"), *self.root.glob("unseen/videos/*.mp4")]
        return {f"{self.uri}/{file.relative_to(self.root)}": storage.sha256(str(file)) for file in files}


@pytest.fixture
def story(bucket: Path, server: S3Server, faults_workdir: Path, clean_copy: Path, tmp_path: Path) -> Iterator[Story]:
    root, uri, shared = bucket / tmp_path.name, f"s3://bucket/{tmp_path.name}", tmp_path / "shared"
    small = CorpusConfig(
        seconds=SECONDS, width=96, height=96, fps=2, scenes=(1, 2), needle_seconds=(1, 1), answer_form="text"
    )
    learned = write_corpus(root / "learned", dataclasses.replace(small, num_videos=LEARNED, seed=1))
    unseen = write_corpus(shared / "unseen", dataclasses.replace(small, num_videos=UNSEEN, seed=2))
    shutil.copytree(shared / "unseen" / "videos", root / "unseen" / "videos")
    variables = environment(server.port)
    with mlflow_server(tmp_path, f"{uri}/mlflow", variables) as tracking:
        more = variables | {"MLFLOW_TRACKING_URI": tracking} | PATIENCE | PROXY
        with two_node_cluster(more) as cluster:
            tiny = faults_workdir / "models" / "tiny"
            yield Story(cluster, clean_copy, root, uri, shared, learned, unseen, tiny)


@pytest.mark.slow
def test_every_stage_on_a_cluster_that_loses_nodes_with_all_it_makes_in_a_bucket(story: Story) -> None:
    store = extracted(story)
    model = trained(story, store)
    evaluated(story, store, model)
    served(story, store, model)
    tracked(story)


def extracted(story: Story) -> str:
    """URI of the store of both corpora."""
    sources = json.dumps([f"{story.uri}/learned/videos", f"{story.uri}/unseen/videos"])
    words = ["--config", "jobs/configs/extract_tiny.yaml", f"workdir={story.shared}", f"model={story.tiny}"]
    words += [f"source={sources}", f"store={story.uri}", "keep_all_below=0"]
    store = found(r"^store +(s3://\S+)$", story.run("jobs.extract", words))
    content = read_content(str(story.here(store)))
    assert len(content.videos) == LEARNED + UNSEEN and not content.repeated
    assert len(content.frames) == (LEARNED + UNSEEN) * SECONDS
    return store


def trained(story: Story, store: str) -> Path:
    """Folder of the trained model, through the loss of a node."""
    steps = EPOCHS * story.learned.num_questions // BATCH

    def lose_a_node(job: Job) -> None:
        # The first checkpoint, of step 0, is written before anything is learned.
        assert job.wait_until(lambda: list(story.root.glob("train/*/checkpoints/*[1-9]*-*/commit.json"))), said(job)
        assert story.cluster.on_second_node(training.WORKER), said(job)
        story.cluster.lose_second_node()
        story.cluster.replace_second_node()

    words = ["--config", "jobs/configs/train_tiny_video.yaml", f"workdir={story.shared}", f"model={story.tiny}"]
    words += [f"output={story.uri}", f"data.annotations={story.uri}/learned/annotations.json"]
    words += [f"data.media_root={story.uri}/learned", f"data.store={store}", "data.online=false", *ON_TWO_NODES]
    words += [f"stage.epochs={EPOCHS}", f"stage.global_batch_samples={BATCH}", "checkpoint.every_steps=4"]
    told = story.run("jobs.train", words, lose_a_node)
    assert 0 < int(found(r"continuing at step (\d+) of", told)) < steps and f"{steps} of {steps} steps" in told
    checkpoint = found(r"^checkpoint: (s3://\S+)$", told)
    assert json.loads((story.here(checkpoint) / "commit.json").read_text())["cursor"] == steps
    model = story.shared / "models" / NAME
    model.parent.mkdir()
    story.run("jobs.train", ["export", checkpoint, str(model)])
    return model


def evaluated(story: Story, store: str, model: Path) -> None:
    """Each question is answered once, through the loss of a node that nobody replaces."""

    def lose_a_node(job: Job) -> None:
        assert job.wait_until(lambda: answers(story) and story.cluster.on_second_node(evaluation.WORKER)), said(job)
        story.cluster.lose_second_node()

    words = ["--config", "jobs/configs/eval_tiny.yaml", f"workdir={story.shared}", f"model={model}"]
    words += [f"data={story.shared / 'unseen'}", "task=needle_synthetic", "preset=text"]
    words += [f"store={store}", f"output={story.uri}", *ON_TWO_NODES]
    told = story.run("jobs.evaluate", words, lose_a_node)
    assert "a worker died" in told, told[-4000:]
    wanted = sorted(json.loads(line)["question_id"] for line in story.unseen.questions.read_text().splitlines())
    assert sorted(json.loads(line)["row"] for line in answers(story)) == wanted
    [run] = story.root.glob("evaluate/needle_synthetic-*")
    results = Results.load(str(run))
    assert sorted(results.rows["row"].to_pylist()) == wanted
    assert set(results.rows["status"].to_pylist()) <= {"scored", "unparsed"}


def served(story: Story, store: str, model: Path) -> None:
    """A question about a video that the endpoint has in the store alone, by the name that its content gives it."""
    key, entry = new_key()
    port = free_port()
    words = ["--config", "jobs/configs/serve_tiny.yaml", f"workdir={story.shared}", f"port={port}"]
    words += [f"auth.entries=[{entry}]", f"models.0.name={NAME}", f"models.0.path={model}", f"models.0.store={store}"]
    video = storage.sha256(str(story.unseen.videos[0]))
    with story.job("jobs.serve", words) as job:
        assert job.wait_until(lambda: "ready: " in job.stdout), said(job)
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key) as client:
            messages = ask(video_part(f"video:{video}"), "What colour is the shape?")
            reply = client.chat.completions.create(model=NAME, messages=messages, max_tokens=4)
        assert reply.choices[0].message.content is not None and reply.usage
        assert [medium["source"] for medium in reply.longvu["media"]] == ["store"]  # type: ignore[attr-defined]
        story.cluster.stop(found(r"(raysubmit_\w+)", job.stdout))
        assert job.wait() == 0 and "letting running answers end" in job.stdout, said(job)


def tracked(story: Story) -> None:
    """The way back from the endpoint reaches every video, and what it is read from lies in the bucket."""
    with Job([], story.shared / "logs", story.cluster.variables, [*LINEAGE, NAME, "--json"]) as job:
        assert job.wait() == 0, said(job)
        lineage = json.loads(job.stdout)
    assert lineage["source_digests"] == story.videos
    nodes = list(walk(lineage["origin"]))
    assert {"serve", "model", "train", "store", "extract"} <= {node["kind"] for node in nodes}
    assert {node["facts"]["status"] for node in nodes if "status" in node["facts"]} == {"FINISHED"}
    kept = {file.name for file in (story.root / "mlflow").rglob("*") if file.is_file()}
    assert {"sources.parquet", "results.json", "results.parquet"} <= kept
    assert not list(story.shared.glob("mlflow*/*")) and not (story.shared / "mlflow.db").exists()


def answers(story: Story) -> list[str]:
    """Lines of the log of answers, as it lies in the bucket."""
    return [line for log in story.root.glob("evaluate/answers/*/*.jsonl") for line in log.read_text().splitlines()]


def found(pattern: str, text: str) -> str:
    """The pattern's group where it is found first."""
    match = re.search(pattern, text, re.MULTILINE)
    assert match, f"no {pattern} in:\n{text[-4000:]}"
    return match[1]


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a lineage and all behind it."""
    yield node
    for link in node["links"]:
        yield from walk(link)


def said(job: Job) -> str:
    """The last that a job printed."""
    return job.stdout[-6000:] + job.stderr[-2000:]
