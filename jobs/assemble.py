"""``longvu assemble PRESET DST``: a model of pretrained parts and new ones, ready for a recipe's first stage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.cli import SEED, Parser
from pipelines.errors import UserError, run_cli

DTYPES = ("bfloat16", "float16", "float32")


def build_parser() -> Parser:
    from longvu_model.starting_point import RECIPES

    presets = [name for recipe in RECIPES for name in recipe.presets]
    parser = Parser(prog="longvu assemble", description=__doc__)
    parser.add_argument("preset", choices=presets, metavar="PRESET", help=", ".join(presets))
    parser.add_argument("destination", type=Path, metavar="DST", help="new folder, in our layout")
    for part in dict.fromkeys(name for recipe in RECIPES for name in recipe.parts):
        kinds = [(recipe.model_class.config_class.model_type, recipe.parts.get(part)) for recipe in RECIPES]
        what = "; ".join(f"{kind}: {text}" for kind, text in kinds if text)
        parser.add_argument(f"--{part.replace('_', '-')}", dest=f"part_{part}", metavar="PATH", help=what)
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="fields of the configuration that differ from the preset's"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of the new weights (default 0)")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of all weights (default: bfloat16)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Entry point of ``longvu assemble``."""
    options = build_parser().parse_intermixed_args(argv)
    return run_cli(lambda _: run(options), [])


def run(options: argparse.Namespace) -> int:
    import torch

    from jobs.convert import first_line, new_folder
    from jobs.terminal import quiet_libraries
    from longvu_model.starting_point import assemble, recipe_of

    quiet_libraries()
    chosen = {name.removeprefix("part_"): value for name, value in vars(options).items() if name.startswith("part_")}
    parts = {name: value for name, value in chosen.items() if value is not None}
    changes = dict(_change(word) for word in options.changes)
    with new_folder(options.destination) as folder:
        try:
            dtype = getattr(torch, options.dtype)
            sizes = assemble(options.preset, folder, parts, changes=changes, seed=options.seed, dtype=dtype)
        except (ValueError, OSError) as error:
            raise UserError(first_line(error)) from None
    new = recipe_of(options.preset).new
    listed = [f"{name} {size:,}{' (new)' if name in new else ''}" for name, size in sizes.items()]
    print(f"{options.destination}: {sum(sizes.values()):,} parameters: {', '.join(listed)}")
    return 0


def _change(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{word}: give key=value, such as compress_type=grid:2")
    return name, yaml.safe_load(value)
