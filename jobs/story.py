"""From nothing to answers: the stages of the demo in order, each a command that a user could type.

The corpus is written here; everything else is submitted to a Ray cluster of the demo's own by ``ray job submit``, with
the settings that a large cluster takes. A stage that is finished is not started again; one that was interrupted goes
on where its job left off.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from jobs.narrator import Narrator
from pipelines.errors import UserError
from pipelines.local_cluster import LocalCluster, free_ports

CONFIGS = Path("jobs/configs")
_STORE = {"store": r"^store +(\S.*)$"}
_TRAINED = {"checkpoint": r"^checkpoint: (\S.*)$"}
_EVALUATED = {"report": r"^report +(\S.*)$"}


@dataclass(frozen=True)
class Size:
    """How much of everything; settings that win over those of the shipped configurations.

    Args:
        about: said at the top of the run and of its report; empty for the real thing.
    """

    about: str = ""
    corpus: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ("workers.count=2", "workers.cpus=0.75", "workers.threads=1")
    grid: tuple[str, ...] = ("options.lengths_s=[60, 120, 240]", "options.num_depths=5", "options.repeats=4")


SIZES = {
    "full": Size(),
    "smoke": Size(
        about="smoke: a few videos and steps show that every stage runs; the model has learned nothing",
        corpus=("stills=16", "videos=8", "heldout=4"),
        training=("stage.epochs=1", "stage.global_batch_samples=8", "workers.count=1"),
        evaluation=("workers.count=1", "workers.cpus=0.75", "workers.threads=1"),
        grid=("options.lengths_s=[60]", "options.num_depths=2", "options.repeats=1"),
    ),
}


def tell(folder: Path, seed: int, size_name: str, *, serving: bool = True) -> None:
    """Run what is not finished of the story.

    Args:
        folder: where everything goes.
        seed: of data and training.
        size_name: of :data:`SIZES`.
        serving: whether it ends with questions over HTTP and the report, or with the evaluation.

    Raises:
        UserError: the folder holds another story.
        StageFailed: a stage ended with an error; its last lines and how to go on are in the message.
    """
    folder, size = folder.resolve(), SIZES[size_name]
    _claim(folder, seed, size_name)
    with LocalCluster(folder / "logs" / "ray.log") as cluster:
        narrator = Narrator(folder, cluster)
        model = _train(narrator, folder, seed, size)
        _evaluate(narrator, folder, model, size)
        if serving:
            _ask(narrator, folder, model)
            narrator.here(
                "report",
                "Putting it all on one page.",
                "report",
                [str(folder)],
                paths=[folder / "report.html"],
                after=("evaluate longvu", "evaluate uniform", "evaluate depth and length", "ask"),
            )


def _train(narrator: Narrator, folder: Path, seed: int, size: Size) -> Path:
    """Corpus, features, both stages of training; the model folder."""
    corpus, here = folder / "corpus", [f"workdir={folder}"]
    narrator.here(
        "corpus",
        "Drawing stills and one-minute videos: slow scenes, and for a second and a half a coloured shape, the needle.",
        "corpus",
        [str(corpus), "--config", str(CONFIGS / "corpus_demo.yaml"), f"seed={seed}", *size.corpus],
        paths=[corpus / "splits.json"],
    )
    media = [str(corpus / "stills"), str(corpus / "train" / "videos"), str(corpus / "heldout" / "videos")]
    words = [f"source={json.dumps(media)}", f"store={folder}", *here, "keep_all_below=0"]
    store = narrator.job(
        "extract",
        "Looking at every second of every video: DINOv2 tells what is new, and that is kept.",
        "jobs.extract",
        ["--config", str(CONFIGS / "extract_tiny.yaml"), *words],
        finds=_STORE,
    )["store"]
    shared = [f"data.media_root={corpus}", f"data.store={store}", f"data.heldout={corpus / 'heldout.json'}"]
    shared += [f"output={folder}", *here, f"seed={seed}", *size.training]
    stills = narrator.job(
        "train image stage",
        "First stage of training, on stills: what the colours are called. The weights begin random.",
        "jobs.train",
        ["--config", str(CONFIGS / "train_tiny_image.yaml"), f"data.annotations={corpus / 'stills.json'}", *shared],
        finds=_TRAINED,
    )["checkpoint"]
    first = _export(narrator, "export image stage", "Its weights as a model folder.", stills, folder)
    videos = narrator.job(
        "train video stage",
        "Second stage, on videos: finding the needle among the frames that were kept.",
        "jobs.train",
        [
            *("--config", str(CONFIGS / "train_tiny_video.yaml"), f"data.annotations={corpus / 'train.json'}"),
            *(f"model={first}", *shared),
        ],
        finds=_TRAINED,
    )["checkpoint"]
    return _export(narrator, "export video stage", "The trained model as a folder.", videos, folder)


def _export(narrator: Narrator, name: str, about: str, checkpoint: str, folder: Path) -> Path:
    run = Path(checkpoint).parents[1].name
    model = folder / "models" / f"{run}-{Path(checkpoint).name}"
    if model.exists():  # it appears in one piece
        narrator.skip(name)
    else:
        narrator.here(name, about, "export", [checkpoint, str(model)], paths=[model])
    return model


def _evaluate(narrator: Narrator, folder: Path, model: Path, size: Size) -> None:
    """LongVU and uniform sampling on unseen videos, and a map of where needles are found."""
    tested, store = folder / "corpus" / "heldout", narrator.found("extract", "store")
    shared = ["--config", str(CONFIGS / "eval_tiny.yaml"), f"model={model}", f"output={folder}", f"workdir={folder}"]
    shared += size.evaluation
    ours = narrator.job(
        "evaluate longvu",
        "Asking about videos that the model has never seen.",
        "jobs.evaluate",
        [*shared, "name=longvu", "task=needle_synthetic", "preset=text", f"data={tested}", f"store={store}"],
        finds=_EVALUATED,
    )["report"]
    frames = uniform_frames(Path(ours).with_name("results.json"))
    narrator.job(
        "evaluate uniform",
        f"The same model and questions, but {frames} frames spread evenly over the video: at least as many visual "
        f"tokens, no selection.",
        "jobs.evaluate",
        [
            *(*shared, "name=uniform", "task=needle_synthetic", "preset=text", f"data={tested}"),
            *(f"frames=uniform:{frames}", "frame_selection=false"),
        ],
        finds=_EVALUATED,
    )
    narrator.job(
        "evaluate depth and length",
        "Hiding needles at five depths of longer and longer videos, some longer than any seen in training.",
        "jobs.evaluate",
        [*shared, "name=grid", "task=needle_grid", "preset=text", f"data={folder}", *grid_options(folder, size)],
        finds=_EVALUATED,
    )


def uniform_frames(results: Path) -> int:
    """So many frames cost at least the visual tokens that LongVU used on average; frames cost the same in both."""
    return math.ceil(json.loads(results.read_text())["facts"]["kept_frames"] - 1e-9)


def grid_options(folder: Path, size: Size) -> list[str]:
    """The corpus' own kind of needles, of a seed that nothing was learned from."""
    corpus = json.loads((folder / "corpus" / "splits.json").read_text())["config"]
    same = {name: corpus[name] for name in ("fps", "width", "height", "scenes", "needle_area")}
    same |= {"colours": corpus["colours"], "needle_s": corpus["needle_seconds"][1]}
    return [*(f"options.{name}={json.dumps(value)}" for name, value in same.items()), *size.grid]


def _ask(narrator: Narrator, folder: Path, model: Path) -> None:
    """Serve the model and ask it two questions with OpenAI's client."""
    if narrator.finished("ask", after=("export video stage",)):
        narrator.skip("ask")
        return
    from jobs.conversation import converse
    from pipelines.serve.auth import new_key

    key, entry = new_key()
    (port,) = free_ports(1)
    words = ["--config", str(CONFIGS / "serve_tiny.yaml"), f"port={port}", f"workdir={folder}", "models.0.name=longvu"]
    words += [f"models.0.path={model}", f"auth.entries=[{entry}]", f'media.file_roots=["{folder / "corpus"}"]']
    words += ["tracking.sample=1"]
    with narrator.serving("ask", "Serving the model, and asking it with OpenAI's client.", "jobs.serve", words):
        converse(folder, f"http://127.0.0.1:{port}/v1", key, narrator.say)


def _claim(folder: Path, seed: int, size: str) -> None:
    """A folder holds one story; another seed or size would mix with it."""
    path = folder / "story.json"
    if not path.is_file():
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"seed": seed, "size": size, "about": SIZES[size].about}) + "\n")
        return
    there = json.loads(path.read_text())
    if (there["seed"], there["size"]) != (seed, size):
        raise UserError(
            f"{folder} holds the demo with --seed {there['seed']} --size {there['size']}, asked for is "
            f"--seed {seed} --size {size}: give another --folder"
        )
