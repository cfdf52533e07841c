"""The towers of a checkpoint as one value: to hash, to send to actors and to build there.

Only the towers' tensors are read, not the language model beside them. They travel through Ray's object store, so the
nodes of a cluster need no shared folder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.store.features import FeatureSpec

if TYPE_CHECKING:
    from longvu_model.config import LongVUConfig
    from longvu_model.tower_pixels import TowerPixels
    from longvu_model.towers import DinoTower, SiglipTower

_PART = {"dinov2": "dino", "siglip": "siglip"}
_PREFIX = "model.towers."
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class TowerBundle:
    """Towers of one checkpoint.

    Args:
        config_json: the whole LongVUConfig.
        weights: per feature name, the tower's tensors in safetensors format.
    """

    config_json: str
    weights: dict[str, bytes]

    @property
    def config(self) -> LongVUConfig:
        from longvu_model.config import LongVUConfig

        return LongVUConfig.from_dict(json.loads(self.config_json))

    def digest(self, name: str) -> str:
        """blake2b over all that decides a tower's output: its shape, the common grid and its weights."""
        digest = hashlib.blake2b(json.dumps(_facts(self.config, name), sort_keys=True).encode(), digest_size=16)
        digest.update(self.weights[name])
        return digest.hexdigest()

    def spec(self, name: str, dtype: str) -> FeatureSpec:
        """How this tower's features are stored."""
        config = self.config
        tower: Any = config.dino_config if name == "dinov2" else config.siglip_config
        return FeatureSpec(name, config.token_grid**2, tower.hidden_size, dtype)

    def pixels(self, name: str) -> TowerPixels:
        """What the tower is fed."""
        from longvu_model.tower_pixels import TowerPixels

        tower = self._empty(name)
        return TowerPixels(tower.image_size, tower.image_mean, tower.image_std)

    def build(self, name: str) -> DinoTower | SiglipTower:
        """The tower on the CPU, in the dtype of the checkpoint, ready for inference."""
        import safetensors.torch

        tower = self._empty(name)
        tower.load_state_dict(safetensors.torch.load(self.weights[name]), assign=True)
        return tower.eval().requires_grad_(False)

    def _empty(self, name: str) -> DinoTower | SiglipTower:
        import torch

        from longvu_model.towers import DinoTower, SiglipTower

        with torch.device("meta"):
            return DinoTower(self.config) if name == "dinov2" else SiglipTower(self.config)


def model_folder(model: str, workdir: Path) -> Path:
    """The checkpoint folder that ``model=`` names; a preset is written to ``<workdir>/models`` the first time.

    Raises:
        UserError: neither a folder with a ``config.json`` nor a preset that can be built.
    """
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


def load_towers(folder: Path, names: tuple[str, ...]) -> TowerBundle:
    """Read towers from a checkpoint in our layout or the published one.

    Args:
        names: feature names, "dinov2" and perhaps "siglip".

    Raises:
        UserError: the folder holds no LongVU checkpoint, or one without a tower.
    """
    from longvu_model.config import LongVUConfig

    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind != LongVUConfig.model_type:
        from longvu_model import official

        if not official.is_published(folder):
            raise UserError(f"model={folder}: a checkpoint of model_type {kind!r}, not of LongVU")
        try:
            model = official.load(folder)
        except (ValueError, OSError) as error:
            raise UserError(f"model={folder}: {error}") from None
        states = {name: getattr(model.model.towers, _PART[name]).state_dict() for name in names}
        return _bundle(model.config, states)
    states = {name: _tensors(folder, f"{_PREFIX}{_PART[name]}.") for name in names}
    for name, state in states.items():
        if not state:
            raise UserError(f"model={folder}: its *.safetensors files hold no {name} tower ({_PREFIX}{_PART[name]}.*)")
    return _bundle(LongVUConfig.from_pretrained(folder), states)


def _tensors(folder: Path, prefix: str) -> dict[str, Any]:
    from safetensors import safe_open

    state: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
            state |= {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    return state


def _bundle(config: LongVUConfig, states: dict[str, dict[str, Any]]) -> TowerBundle:
    import safetensors.torch

    weights = {
        name: safetensors.torch.save({key: tensor.contiguous() for key, tensor in state.items()})
        for name, state in states.items()
    }
    return TowerBundle(config.to_json_string(use_diff=False), weights)


def _facts(config: LongVUConfig, name: str) -> dict[str, Any]:
    """Fields that decide a tower's output, without what a library's version adds to its configuration."""
    if name == "dinov2":
        facts = {field: getattr(config.dino_config, field) for field in _DINO_FIELDS}
        return facts | {"token_grid": config.token_grid, "input_size": config.dino_image_size}
    return {field: getattr(config.siglip_config, field) for field in _SIGLIP_FIELDS} | {"token_grid": config.token_grid}


_SIGLIP_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "patch_size",
    "image_size",
)
_DINO_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "patch_size",
    "image_size",
    "qkv_bias",
    "use_swiglu_ffn",
)
