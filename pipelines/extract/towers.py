"""The towers of a checkpoint as one value: to hash, to send to actors and to build there.

Only the towers' tensors are read, not the language model beside them. They travel through Ray's object store, so the
nodes of a cluster need no shared folder. What towers a family has is in :mod:`pipelines.extract.families`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract.families import Family, Feature, FramePixels, Kind, family, family_name
from pipelines.store import FeatureStore, StoreError
from pipelines.store.features import FeatureSpec

if TYPE_CHECKING:
    from longvu_model.tower_pixels import TowerPixels
    from longvu_model.towers import Tower

_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class TowerBundle:
    """Towers of one checkpoint.

    Args:
        family: longvu, llamavid or videollamb.
        config_json: the model's whole configuration.
        weights: per feature name, its tensors in safetensors format.
    """

    family: str
    config_json: str
    weights: dict[str, bytes]

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return family(self.family).config_class.from_dict(json.loads(self.config_json))

    def digest(self, name: str) -> str:
        """blake2b over all that decides a feature: its towers' shapes, the common grid and their weights."""
        facts = self._feature(name).facts(self.config)
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
        digest.update(self.weights[name])
        return digest.hexdigest()

    def spec(self, name: str, dtype: str) -> FeatureSpec:
        """How this feature is stored."""
        return FeatureSpec(name, *self._feature(name).shape(self.config), dtype)

    def pixels(self, name: str, kind: Kind = "video") -> TowerPixels | FramePixels:
        """What the tower is fed."""
        return self._feature(name).pixels(self.config, kind)

    def preprocessing(self, name: str) -> str:
        """blake2b over how frames and pictures become pixels."""
        facts: Any = {kind: self.pixels(name, kind).facts for kind in ("video", "image")}
        if facts["video"] == facts["image"]:
            facts = facts["video"]
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()

    def build(self, name: str, kind: Kind = "video") -> Tower:
        """The tower on the CPU, in the dtype of the checkpoint, ready for inference."""
        import safetensors.torch
        import torch

        feature, config = self._feature(name), self.config
        with torch.device("meta"):
            tower = feature.tower(config, kind)
        part, state = feature.part(config, kind), safetensors.torch.load(self.weights[name])
        own = {key.removeprefix(part): tensor for key, tensor in state.items() if key.startswith(part)}
        tower.load_state_dict(own, assign=True)
        return tower.eval().requires_grad_(False)

    def by_kind(self, name: str) -> bool:
        """Whether pictures have another tower than frames of videos."""
        feature, config = self._feature(name), self.config
        return feature.part(config, "image") != feature.part(config, "video")

    def _feature(self, name: str) -> Feature:
        return family(self.family).feature(name)


def model_folder(model: str, workdir: Path) -> Path:
    """The checkpoint folder that ``model=`` names; a preset is written to ``<workdir>/models`` the first time.

    Raises:
        UserError: neither a folder with a ``config.json`` nor a preset that can be built.
    """
    if "://" in model:
        raise UserError(
            f"model={model}: a model is read from a folder that every node sees under one path; copy it to one (of a "
            f"training checkpoint: longvu export CHECKPOINT FOLDER)"
        )
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder
    from longvu_model.presets import build_preset, preset_names

    if model not in preset_names():
        presets = ", ".join(sorted(preset_names()))
        raise UserError(f"model={model}: neither a checkpoint folder (with config.json) nor a preset ({presets})")
    try:
        return build_preset(model, workdir / "models" / model)
    except (ValueError, FileExistsError) as error:
        raise UserError(f"model={model}: {error}") from None


def existing_folder(model: str, workdir: Path) -> Path | None:
    """The checkpoint folder, as far as it is there already: found without importing torch."""
    for folder in (Path(model).expanduser(), workdir / "models" / model):
        if (folder / "config.json").is_file():
            return folder
    return None


def fingerprint(folder: Path) -> str:
    """What the checkpoint's files look like from outside: as long as it is unchanged, nothing need be read again."""
    files = sorted(path for pattern in ("config.json", *_WEIGHTS) for path in folder.rglob(pattern))
    facts = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def family_of(folder: Path) -> Family:
    """The family of a checkpoint folder, in our layout or the published one.

    Raises:
        UserError: the folder holds no checkpoint of a known family.
    """
    return family(_family_name(folder))


def check_towers(store: FeatureStore, folder: Path) -> None:
    """Ensure that a store was made with the towers of a checkpoint, and with pixels made as it takes them.

    Raises:
        StoreError: it was not; names what differs.
    """
    if store.manifest.model.get("fingerprint") == fingerprint(folder):
        return
    made_with = f"use the checkpoint it was made with ({store.manifest.model.get('name', 'see its store.json')})"
    family = family_of(folder)
    lacking = store.manifest.towers.keys() - {feature.name for feature in family.features}
    if lacking:
        raise StoreError(
            f"{storage.shown(store.uri)} has features of {', '.join(sorted(lacking))}, which {family.name} "
            f"({folder}) does not have: {made_with}"
        )
    bundle = load_towers(folder, tuple(store.manifest.towers))
    for name, digest in store.manifest.towers.items():
        if bundle.digest(name) != digest:
            raise StoreError(
                f"{storage.shown(store.uri)} was made with another {name} tower than that of {folder}: {made_with}"
            )
        pixels = store.manifest.preprocessing.get(name)
        if pixels is not None and pixels != bundle.preprocessing(name):
            raise StoreError(
                f"{storage.shown(store.uri)} was made with other pixels for the {name} tower than {folder} takes: "
                f"{made_with}"
            )


def _family_name(folder: Path) -> str:
    return family_name(json.loads((folder / "config.json").read_text()), f"model={folder}")


def load_towers(folder: Path, names: Sequence[str] | None = None) -> TowerBundle:
    """Read towers from a checkpoint in our layout or the published one.

    Args:
        names: of features; all that the family has by default.

    Raises:
        UserError: the folder holds no checkpoint of a known family, or one without a tower.
    """
    name = _family_name(folder)
    found = family(name)
    try:
        features = [found.feature(one) for one in names] if names is not None else list(found.features)
    except UserError as error:
        raise UserError(f"model={folder}: {error}") from None
    if found.is_published(folder):
        try:
            model = import_module(found.official).load(folder)
        except (ValueError, OSError) as error:
            raise UserError(f"model={folder}: {error}") from None
        whole = model.state_dict()
        states = {one.name: _inside(whole, one.prefix) for one in features}
        return _bundle(name, model.config, states)
    states = {one.name: _tensors(folder, one.prefix) for one in features}
    for one in features:
        if not states[one.name]:
            raise UserError(f"model={folder}: its *.safetensors files hold no {one.name} tower ({one.prefix}*)")
    return _bundle(name, found.read_config(folder), states)


def _inside(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _tensors(folder: Path, prefix: str) -> dict[str, Any]:
    from safetensors import safe_open

    state: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
            state |= {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    return state


def _bundle(name: str, config: Any, states: dict[str, dict[str, Any]]) -> TowerBundle:
    import safetensors.torch

    weights = {
        feature: safetensors.torch.save({key: tensor.contiguous() for key, tensor in state.items()})
        for feature, state in states.items()
    }
    return TowerBundle(name, config.to_json_string(use_diff=False), weights)
