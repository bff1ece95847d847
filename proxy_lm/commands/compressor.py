"""`proxy-lm compressor train|bench|list|...`: make views, measure them, see what there is. The work is in `proxy_lm.view_training`;
`analyse`, `probe` and `replicate` are in `proxy_lm.commands.analyse`, `train neural` is in `proxy_lm.neural_training`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxy_lm.commands import analyse
from proxy_lm.errors import ProxyError, RequestError

HELP = "train a compressor on a corpus, measure compressors, list those there are"
EXAMPLE = f"""  proxy-lm compressor list
  proxy-lm compressor train spm --corpus corpus --option alphabet_size=8192 --out views/spm
  proxy-lm compressor bench --corpus corpus gzip zstd views/spm
{analyse.EXAMPLE}"""

TRAIN_EXAMPLE = """  proxy-lm compressor train spm --corpus corpus --option alphabet_size=8192 --out views/spm
  proxy-lm compressor train neural --model counts --corpus corpus --out views/neural
  proxy-lm compressor train neural --model transformer --preset 0.7m --corpus corpus --out views/neural07 --set num_steps=5000"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="train|bench|list|analyse|probe|replicate")
    raw = argparse.RawDescriptionHelpFormatter
    train = actions.add_parser(
        "train",
        help="fit a view to a corpus and write its artifact folder",
        formatter_class=raw,
        epilog=f"examples:\n{TRAIN_EXAMPLE}",
    )
    train.add_argument("kind", metavar="KIND", help="name of a view (see `proxy-lm compressor list`), or neural: a byte model and its view")
    train.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="the prepared corpus")
    train.add_argument("--split", default="train", help="documents to learn from (default: train)")
    train.add_argument("--held-out", default="valid", metavar="SPLIT", help="documents to measure on (default: valid)")
    train.add_argument("--option", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help="options of the view")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="the artifact folder")
    train.add_argument("--force", action="store_true", help="replace another view in the same folder")
    neural = train.add_argument_group("neural", "train a byte model into DIR/model, then the view of it; killed and run again it continues")
    neural.add_argument(
        "--model", choices=("counts", "transformer"), help="counts: seconds; transformer: minutes to hours (default: counts)"
    )
    neural.add_argument("--preset", choices=("0.7m", "3m", "41m"), help="size of the transformer (default: 0.7m, for a CPU)")
    neural.add_argument("--view", metavar="KIND", help="the view made of it: table, stream, segments (default: table)")
    neural.add_argument(
        "--set",
        dest="settings",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of the byte model's training: those of proxy_lm.train, crops.lengths, crops.num_bytes, launch.num_ranks",
    )
    bench = actions.add_parser(
        "bench",
        help="measure views on documents of a corpus",
        formatter_class=raw,
        epilog="example:\n  proxy-lm compressor bench --corpus corpus gzip zstd views/spm",
    )
    bench.add_argument("views", nargs="+", metavar="FOLDER|KIND", help="artifact folders, or kinds that need no training")
    bench.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="the prepared corpus")
    bench.add_argument("--split", default="valid", help="documents to measure on (default: valid)")
    bench.add_argument(
        "--max-bytes", type=int, default=4_000_000, metavar="N", help="measure whole documents up to this size (default: 4 MB)"
    )
    bench.add_argument(
        "--stability", type=int, default=0, metavar="K", help="also delete 10 %% of the characters of K documents and compare"
    )
    listing = actions.add_parser(
        "list", help="the views there are, plug-ins included", formatter_class=raw, epilog="example:\n  proxy-lm compressor list"
    )
    for action in (train, bench, listing, *analyse.add_parsers(actions)):
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object on standard output, nothing else"
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The subcommand's result, with its name under `action`."""
    if args.action == "train":
        return {"action": "train", **_train(args)}
    if args.action == "bench":
        return {"action": "bench", **_bench(args)}
    if args.action in analyse.ACTIONS:
        return {"action": args.action, **analyse.run(args)}
    return {"action": "list", "views": _list()}


def show(result: dict[str, Any]) -> None:
    """A table, or a few lines."""
    if result["action"] == "train":
        _show_train(result)
    elif result["action"] == "bench":
        _show_bench(result)
    elif result["action"] in analyse.ACTIONS:
        analyse.show(result)
    else:
        _show_list(result["views"])


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from compressors import registry
    from proxy_lm.data.corpus import Corpus
    from proxy_lm.view_training import train_view

    options = dict(_option(text) for text in args.option)
    if args.kind == "neural":
        return _train_neural(args, options)
    given = [name for name, value in (("model", args.model), ("preset", args.preset), ("view", args.view), ("set", args.settings)) if value]
    if given:
        raise RequestError(f"--{given[0]} is for `compressor train neural` and this is '{args.kind}'; leave it out")
    registry.get(args.kind)  # a misspelled name is told before a large corpus is checked
    corpus = Corpus.open(args.corpus)
    return train_view(args.kind, corpus, args.out, split=args.split, held_out=args.held_out, options=options, force=args.force)


def _train_neural(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    from proxy_lm.data.corpus import Corpus
    from proxy_lm.neural_training import check_request, train_neural

    model, view = args.model or "counts", args.view or "table"
    check_request(model, args.preset, view, options, args.settings)
    return train_neural(
        Corpus.open(args.corpus),
        args.out,
        model=model,
        preset=args.preset,
        view=view,
        options=options,
        settings=args.settings,
        split=args.split,
        held_out=args.held_out,
        force=args.force,
    )


def _bench(args: argparse.Namespace) -> dict[str, Any]:
    from compressors import registry
    from proxy_lm.data.corpus import Corpus
    from proxy_lm.progress import note
    from proxy_lm.view_training import first_documents, measure_view, open_view, split_range

    if args.max_bytes < 1 or args.stability < 0:
        raise RequestError(f"--max-bytes {args.max_bytes} and --stability {args.stability}: give at least 1 byte, and 0 documents or more")
    opened = [(name, open_view(name)) for name in args.views]
    corpus = Corpus.open(args.corpus)
    documents = first_documents(corpus, split_range(corpus, args.split), args.max_bytes)
    rows = []
    for name, compressor in opened:
        note(f"bench: {name}, {len(documents)} documents, {sum(map(len, documents)) / 1e6:.1f} MB")
        found = measure_view(compressor, documents, rate=0.1, seed=0, num_stability_documents=args.stability)
        rows.append(
            {
                "view": name,
                "kind": compressor.name,
                "alphabet_size": compressor.alphabet_size,
                "exact": compressor.exact,
                "fingerprint": registry.fingerprint(compressor),
                **found,
            }
        )
    return {"corpus_digest": corpus.digest, "split": args.split, "views": rows}


def _list() -> list[dict[str, Any]]:
    from compressors import registry

    rows: list[dict[str, Any]] = []
    for name in registry.names():
        try:
            cls = registry.get(name)
        except ProxyError as error:  # a broken plug-in is a row of the table, not the end of it
            rows.append({"name": name, "problem": str(error)})
            continue
        options = {
            key: {"default": option.default, "required": option.required, "help": option.help} for key, option in cls.options.items()
        }
        about = (cls.__doc__ or "").strip().split("\n")[0]
        rows.append({"name": name, "exact": cls.exact, "needs_training": cls.needs_training, "about": about, "options": options})
    return rows


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; whole numbers, numbers, true and false mean what they say, everything else is text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RequestError(f"'{text}' is not an option; write --option NAME=VALUE")
    if value in ("true", "false"):
        return name, value == "true"
    if re.fullmatch(r"[+-]?\d+(_\d+)*", value):
        return name, int(value)
    if re.fullmatch(r"[+-]?\d*\.\d+", value):
        return name, float(value)
    return name, value


def _show_train(result: dict[str, Any]) -> None:
    held_out, training = result["measured"]["held_out"], result["measured"]["training"]
    if "byte_model" in result:
        _show_byte_model(result["byte_model"])
    print(f"{result['folder']}: view '{result['kind']}', {result['alphabet_size']} symbols, fingerprint {result['fingerprint'][:16]}")
    if training["source_bytes"]:
        print(f"learned from {training['source_bytes'] / 1e6:.1f} MB of split {training['split']} in {training['seconds']:.1f} s")
    print(
        f"on split {held_out['split']}: {_number(held_out['bytes_per_symbol'], 3)} bytes a symbol, "
        f"{_number(held_out['encode_megabytes_per_second'], 1)} MB/s in, {_number(held_out['decode_megabytes_per_second'], 1)} MB/s out"
    )
    print(
        f"round trips: {held_out['num_exact']} of {held_out['num_round_trips']} documents came back exactly; "
        f"{held_out['num_raw_only']} refused, to be used raw"
    )


def _show_byte_model(model: dict[str, Any]) -> None:
    training, bits = model["training"], model["reset_loss"].get("bits_per_byte")
    print(f"byte model '{model['kind']}': {training['source_bytes'] / 1e6:.1f} MB seen in {training['seconds']:.1f} s")
    if bits:
        told = "  ".join(f"{at}: {bits[at]:.2f}" for at in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 31))
        print(f"bits for the byte at each position after a reset, split {model['reset_loss']['split']}: {told}")


def _show_bench(result: dict[str, Any]) -> None:
    rows = result["views"]
    headings = ["view", "symbols", "bytes a\nsymbol", "entropy\nbits", "MB/s\nin", "MB/s\nout", "exact", "raw\nonly"]
    stable = any(row["distance_under_deletion"] is not None for row in rows)
    cells = [
        [
            row["view"],
            str(row["alphabet_size"]),
            _number(row["bytes_per_symbol"], 3),
            _number(row["entropy_bits"], 2),
            _number(row["encode_megabytes_per_second"], 1),
            _number(row["decode_megabytes_per_second"], 1),
            "all" if row["num_exact"] == row["num_round_trips"] else f"{row['num_exact']}/{row['num_round_trips']}",
            str(row["num_raw_only"]),
            *([_number(row["distance_under_deletion"], 3)] if stable else []),
        ]
        for row in rows
    ]
    _table([*headings, *(["moved"] if stable else [])], cells, num_left=1, folded=0)
    first = rows[0]
    print(f"{first['num_documents']} documents, {first['source_bytes'] / 1e6:.1f} MB of split {result['split']}; exact: came back whole")
    if stable:
        print("moved: distance of the symbols, 0 to 1, when 10 % of the characters are deleted")


def _show_list(views: Sequence[dict[str, Any]]) -> None:
    cells = []
    for view in views:
        if "problem" in view:
            cells.append([view["name"], "?", "?", view["problem"]])
            continue
        options = ", ".join(f"{name}={_plain(option)}" for name, option in view["options"].items())
        about = view["about"] + (f"\noptions: {options}" if options else "")
        cells.append([view["name"], _yes(view["exact"]), _yes(view["needs_training"]), about])
    _table(["view", "exact", "training", "what it is"], cells, num_left=4, folded=3)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int, folded: int) -> None:
    """Column `folded` gives way where the terminal is narrow; the others stay whole."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < num_left else "right", overflow="fold", no_wrap=index != folded)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _plain(option: dict[str, Any]) -> str:
    if option["required"]:
        return "(required)"
    default = option["default"]
    return "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
