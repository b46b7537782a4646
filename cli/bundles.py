"""``medsam-adapt bundles list|show|check|copy``: what the package can train, from plain data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.table import Table

from medsam_adapt.bundle.catalogue import RECIPES, describe_network, read_config, recipe_values
from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.bundle.settings import knobs_model
from medsam_adapt.bundle.untrusted import base_bundle, copy_bundle, inspect, is_untrusted
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted

from .console import print_json, say, show_table, warn
from .options import Json

app = typer.Typer(help="List, describe, check and copy bundles.", no_args_is_help=True)
Bundle = Annotated[str, typer.Argument(help="Name of a bundle, or the folder of one.", show_default=False)]


@app.command("list")
def list_bundles(as_json: Json = False) -> None:
    """List the bundles."""
    rows = {name: read_config(name, "metadata") for name in bundle_names()}
    if as_json:
        keys = ("name", "version", "summary")
        print_json([{"bundle": name, **{key: row[key] for key in keys}} for name, row in rows.items()])
        return
    table = Table("bundle", "method", "what is trained", box=None)
    for name, row in rows.items():
        table.add_row(name, row["name"], row["summary"])
    show_table(table)


@app.command()
def show(
    name: Bundle,
    backbone: Annotated[
        str, typer.Option(help="vit_nano, vit_b, lite_medsam, sam2_hiera_tiny, …; see docs/backbones.md.")
    ] = "vit_b",
    classes: Annotated[int, typer.Option(min=1, max=255, help="Number of classes.")] = 1,
    images: Annotated[int, typer.Option(min=1, max=4, help="Images of a case that are seen together.")] = 1,
    trust_bundle: Annotated[
        bool, typer.Option("--trust-bundle", help="Count a folder's parameters too, which runs its code.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a bundle: its settings, recipes and trainable parameters.

    The parameters of a folder's bundle are counted with --trust-bundle only, since that runs its code.
    """
    facts = describe(name, backbone, classes, trust_bundle, images)
    if as_json:
        print_json(facts)
        return
    say(f"{facts['method']} (bundle {name}): {facts['description']}\n{facts['reference']}\n")
    settings = Table("setting", *RECIPES, "", box=None)
    for knob, row in facts["settings"].items():
        settings.add_row(knob, *(json.dumps(row[recipe]) for recipe in RECIPES), row["description"])
    show_table(settings)
    if "trainable" not in facts:
        warn(f"the trainable values of {name} are counted with --trust-bundle only, since that runs its code.")
        return
    counts = facts["trainable"]
    parts = ", ".join(f"{part} {counts[part]:,}" for part in ("encoder", "decoder", "other"))
    say(
        f"\ntrainable with {backbone} and {counted(classes, 'class')}: {counts['total']:,} ({parts}), "
        f"{100 * facts['share']:.2f} % of SAM's {facts['sam_parameters']:,}"
    )
    if facts["released_counts"]:
        say(f"trainable in the authors' released code: {facts['released_counts']}")


@app.command()
def check(
    name: Bundle,
    zoo: Annotated[bool, typer.Option("--zoo", help="Also check it against the rules of MONAI's model zoo.")] = False,
    as_json: Json = False,
) -> None:
    """Check a bundle without running it, and list all code in it that no shipped bundle has.

    With --zoo the network of a shipped bundle is also run once, as the model zoo does.
    """
    found = inspect(name)
    if zoo:
        found = replace(found, problems=(*found.problems, *_zoo_problems(name, found.folder)))
    code = [{"config": config, "place": place, "text": text} for config, place, text in found.code]
    if as_json:
        print_json({"bundle": name, "settings_of": found.base, "code": code, "problems": found.problems})
        raise typer.Exit(2 if found.problems else 0)
    for item in code:
        say(f"would run: {item['config']}, {item['place']}: {item['text'][:200]}")
    if code:
        warn("training with it runs this, with your rights: see --trust-bundle of 'train'.")
    if found.problems:
        raise InputError("\n".join(found.problems))
    say(f"No problems found in {found.folder}.")


def _zoo_problems(name: str, folder: Path) -> list[str]:
    from medsam_adapt.bundle.zoo_rules import network_problem, zoo_problems

    if is_untrusted(name):
        return list(zoo_problems(folder))
    with TemporaryDirectory() as temporary:  # the zoo has complete bundles
        copied = Path(temporary) / name
        copy_bundle(name, copied)
        problem = network_problem(copied)
        return [*zoo_problems(copied), *([problem] if problem else [])]


@app.command()
def copy(name: Bundle, folder: Annotated[Path, typer.Argument(help="Folder of the copy.", show_default=False)]) -> None:
    """Copy a bundle's configs and documents, to change them; train with --bundle FOLDER --trust-bundle."""
    files = copy_bundle(name, folder)
    say(f"Copied {counted(len(files), 'file')}: {folder}")
    say(f"Next: medsam-adapt train --bundle {folder} --trust-bundle --data …")


def describe(name: str, backbone: str, classes: int, trusted: bool = False, images: int = 1) -> dict[str, Any]:
    """The output of ``show`` as data; without ``trainable`` for a folder's bundle that is not ``trusted``."""
    metadata, base = read_config(name, "metadata"), base_bundle(name)
    values = {recipe: recipe_values(name, recipe) for recipe in RECIPES}
    settings = {
        knob: {
            "description": field.description,
            **{recipe: values[recipe].get(knob, field.get_default()) for recipe in RECIPES},
        }
        for knob, field in knobs_model(base).model_fields.items()
    }
    return {
        "bundle": name,
        "method": metadata.get("name", name),
        "description": metadata.get("description", ""),
        "reference": (metadata.get("references") or [""])[0],
        "backbone": backbone,
        "classes": classes,
        "settings": settings,
        "released_counts": metadata.get("released_counts"),
        **(describe_network(name, backbone, classes, trusted, images) if trusted or not is_untrusted(name) else {}),
    }
