"""``medsam-adapt bundles list|show``: what the package can train, from plain data."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from medsam_adapt.bundle import RECIPES, bundle_names, describe_network, knobs_model, read_config, recipe_values

from .console import console, say

app = typer.Typer(help="List and describe the bundles.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]


@app.command("list")
def list_bundles(as_json: Json = False) -> None:
    """List the bundles."""
    rows = {name: read_config(name, "metadata") for name in bundle_names()}
    if as_json:
        keys = ("name", "version", "summary")
        say(json.dumps([{"bundle": name, **{key: row[key] for key in keys}} for name, row in rows.items()], indent=2))
        return
    table = Table("bundle", "method", "what is trained", box=None)
    for name, row in rows.items():
        table.add_row(name, row["name"], row["summary"])
    console.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a bundle.", show_default=False)],
    backbone: Annotated[str, typer.Option(help="vit_nano, vit_b, vit_l or vit_h.")] = "vit_b",
    classes: Annotated[int, typer.Option(min=1, max=255, help="Number of classes.")] = 1,
    as_json: Json = False,
) -> None:
    """Show a bundle: its settings, recipes and trainable parameters."""
    facts = describe(name, backbone, classes)
    if as_json:
        say(json.dumps(facts, indent=2))
        return
    say(f"{facts['method']} (bundle {name}): {facts['description']}\n{facts['reference']}\n")
    settings = Table("setting", *RECIPES, "", box=None)
    for knob, row in facts["settings"].items():
        settings.add_row(knob, *(json.dumps(row[recipe]) for recipe in RECIPES), row["description"])
    console.print(settings)
    counts = facts["trainable"]
    parts = ", ".join(f"{part} {counts[part]:,}" for part in ("encoder", "decoder", "other"))
    say(
        f"\ntrainable with {backbone} and {classes} class{'es' * (classes > 1)}: {counts['total']:,} ({parts}), "
        f"{100 * facts['share']:.2f} % of SAM's {facts['sam_parameters']:,}"
    )
    if facts["released_counts"]:
        say(f"trainable in the authors' released code: {facts['released_counts']}")


def describe(name: str, backbone: str, classes: int) -> dict[str, Any]:
    """What ``show`` tells, as data."""
    metadata = read_config(name, "metadata")
    values = {recipe: recipe_values(name, recipe) for recipe in RECIPES}
    settings = {
        knob: {
            "description": field.description,
            **{recipe: values[recipe].get(knob, field.get_default()) for recipe in RECIPES},
        }
        for knob, field in knobs_model(name).model_fields.items()
    }
    return {
        "bundle": name,
        "method": metadata["name"],
        "description": metadata["description"],
        "reference": metadata["references"][0],
        "backbone": backbone,
        "classes": classes,
        "settings": settings,
        "released_counts": metadata.get("released_counts"),
        **describe_network(name, backbone, classes),
    }
