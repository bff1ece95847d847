"""`proxy-lm doctor`: what this machine has, what will be skipped and why. The looking is in `proxy_lm.machine`."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from proxy_lm.errors import RequestError, WorkError

HELP = "say what this machine has, which features will be skipped and why"
EXAMPLE = """  proxy-lm doctor
  proxy-lm doctor --folder /data/runs --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="where runs will be written (default: here)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Look, and fail with exit code 1 (after showing everything) only where something is missing that the default path needs."""
    for name in ("packaging", "rich"):
        if importlib.util.find_spec(name) is None:
            raise WorkError(f"{name} is missing, so not even this command can work: run `pip install -e .` in the checkout")
    from proxy_lm.machine import examine

    if not args.folder.is_dir():
        raise RequestError(f"{args.folder} is not a folder; name the one where runs will be written")
    result = examine(args.folder)
    if result["missing"]:
        if args.json:
            print(json.dumps(result))
        else:
            show(result)
        raise WorkError(f"{len(result['missing'])} things are missing that the default path needs: {'; '.join(result['missing'])}")
    return result


def show(result: dict[str, Any]) -> None:
    """The machine in some lines, then the table of features, then warnings."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for name, value in _lines(result):
        console.print(f"[bold]{name:<9}[/bold] {escape(value)}", highlight=False)
    table = Table(title_justify="left", show_edge=False, pad_edge=False)
    for column in ("feature", "here", "why"):
        table.add_column(column, overflow="fold")
    for row in result["features"]:
        table.add_row(row["feature"], "[green]yes[/green]" if row["available"] else "[yellow]no[/yellow]", escape(row["why"]))
    console.print()
    console.print(table)
    for label, sentences in (("warning", result["warnings"]), ("missing", result["missing"])):
        for sentence in sentences:
            console.print(f"[bold red]{label}:[/bold red] {escape(sentence)}", highlight=False)
    if not result["missing"]:
        console.print("\nEverything that the default path needs is here.", highlight=False)


def _lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    torch = result["torch"]
    if torch["error"]:
        said = torch["error"]
    else:
        devices = "; ".join(f"{d['name']} with {d['memory_bytes'] / 1e9:.0f} GB" for d in torch["devices"]) or "no GPU"
        said = f"{torch['version']}, {torch['build']} build, {devices}"
    versions = {package["name"]: package["installed"] or "missing" for package in result["packages"]}
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name not in ("torch", "deepspeed"))
    memory = result["memory"]
    limit = f", limited to {memory['limit_bytes'] / 1e9:.1f} GB" if memory["limit_bytes"] else ""
    return [
        ("Python", f"{result['python']['version']} on {result['python']['platform']}"),
        ("torch", said),
        ("deepspeed", versions.get("deepspeed", "missing")),
        ("packages", others),
        ("cores", f"{result['cores']['usable']} usable of {result['cores']['machine']}"),
        ("memory", f"{memory['available_bytes'] / 1e9:.1f} of {memory['total_bytes'] / 1e9:.1f} GB available{limit}"),
        ("disk", f"{result['disk']['free_bytes'] / 1e9:.1f} GB free in {result['disk']['path']}"),
        ("tools", ", ".join(f"{tool['name']}: {tool['path'] or 'no'}" for tool in result["tools"])),
    ]
