"""`proxy-lm compressor analyse|probe|replicate`: what views do to text, whether a model can learn them, how they compare with what was
published. The work is in `proxy_lm.analysis`; `proxy_lm.commands.compressor` hands these subcommands over."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

ACTIONS: Final = ("analyse", "probe", "replicate")
EXAMPLE: Final = "  proxy-lm compressor analyse gzip views/spm views/table --corpus corpus --out analyses"
_PROBE_EXAMPLE: Final = """  proxy-lm compressor probe views/table gzip --corpus corpus --out probes
  proxy-lm compressor probe views/table --corpus corpus --out probes-large --set document_bytes=1024 num_documents=1000000 \\
    train.model.preset=125m train.row_length=4096 train.rows_per_step=64 train.precision=bf16 train.optimizer.learning_rate=6e-4"""


def add_parsers(actions: Any) -> list[argparse.ArgumentParser]:
    """The subcommands' own options; the caller adds `--json`."""
    analyse = actions.add_parser(
        "analyse",
        help="density, stability, re-synchronisation, uniformity, transparency and collisions of views, with plots",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Measures views on documents of a corpus and writes DIR/results.json, report.md and report.html with plots.\n"
            "Killed and run again it continues; another view adds its own part."
        ),
        epilog=f"example:\n{EXAMPLE}",
    )
    analyse.add_argument("views", nargs="*", metavar="FOLDER|KIND", help="artifact folders, or kinds that need no training")
    _common(analyse)
    analyse.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="of density, stability, resynchronisation, uniformity, transparency, collisions (default: all)",
    )
    analyse.add_argument(
        "--model",
        type=Path,
        action="extend",
        nargs="+",
        default=[],
        metavar="DIR",
        help="byte-model folders: loss by position after a reset",
    )
    return [analyse, _add_probe(actions), _add_replicate(actions)]


def _add_probe(actions: Any) -> argparse.ArgumentParser:
    probe: argparse.ArgumentParser = actions.add_parser(
        "probe",
        help="can a small model read a view, and write it: trains and asks it, beside a control without input",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Trains small decoders on pairs of tellings (view then bytes: decompress; bytes then view: compress) and asks them on\n"
            "held-out crops, beside controls that were told one way only. Writes DIR/results.json, report.md and report.html.\n"
            "By default some minutes on two cores for alphabets of a few thousand symbols. Killed and run again it continues."
        ),
        epilog=f"example:\n{_PROBE_EXAMPLE}",
    )
    probe.add_argument("views", nargs="+", metavar="FOLDER|KIND", help="artifact folders, or kinds that need no training")
    probe.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="the prepared corpus")
    probe.add_argument("--split", default="train", help="documents to train on (default: train)")
    probe.add_argument("--held-out", default="test", metavar="SPLIT", help="documents to ask about (default: test)")
    probe.add_argument(
        "--tasks", nargs="+", metavar="TASK", default=["decompress", "compress"], help="decompress, compress (default: both)"
    )
    probe.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings: document_bytes, num_documents, num_held_out, seed, launch.num_ranks, train.* (settings of proxy_lm.train)",
    )
    probe.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs and the results")
    return probe


def _add_replicate(actions: Any) -> argparse.ArgumentParser:
    replicate: argparse.ArgumentParser = actions.add_parser(
        "replicate",
        help="the compressors of arXiv 2404.03626 on this corpus: the paper's numbers beside ours",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Measures the paper's settings (rows A1 to A10, A21 and A30) on a split and writes DIR/results.json, report.md and\n"
            "report.html: its number, ours, what differs and why. Without --model the byte model is counted from the train split.\n"
            "Some minutes on one core with counts; a network evaluates every byte several times. Killed and run again it continues."
        ),
        epilog="example:\n  proxy-lm compressor replicate --corpus corpus --out replication",
    )
    replicate.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="the prepared corpus")
    replicate.add_argument("--model", type=Path, metavar="DIR", help="folder of a byte model (default: counts of the train split)")
    replicate.add_argument("--split", default="test", help="documents to tell (default: test)")
    replicate.add_argument("--max-bytes", type=int, default=2_000_000, metavar="N", help="whole documents up to this size (default: 2 MB)")
    replicate.add_argument(
        "--max-training-bytes", type=int, default=50_000_000, metavar="N", help="bytes that are counted (default: 50 MB)"
    )
    replicate.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="rows to measure, such as A5 A7 (default: all)")
    replicate.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the models and the results")
    return replicate


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="the prepared corpus")
    parser.add_argument("--split", default="test", help="documents to look at (default: test)")
    parser.add_argument("--max-bytes", type=int, default=4_000_000, metavar="N", help="whole documents up to this size (default: 4 MB)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of every draw (default: 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The subcommand's results as JSON."""
    return {"analyse": _analyse, "probe": _probe, "replicate": _replicate}[args.action](args)


def show(result: dict[str, Any]) -> None:
    """The overview, and where the rest is."""
    from proxy_lm.analysis import probe_report, replicate_report
    from proxy_lm.analysis.view_report import overview, print_table

    if result["action"] == "probe":
        for line in probe_report.lines(result):
            print(line)
    elif result["action"] == "replicate":
        print_table(replicate_report.table(result))
        for check in result["checks"]:
            print(f"{'holds' if check['holds'] else 'DOES NOT HOLD'}: {check['check']} ({check['detail']})")
    elif result["views"]:
        print_table(overview(result))
    print(f"{result['out']}: results.json, report.md, report.html")


def _analyse(args: argparse.Namespace) -> dict[str, Any]:
    from proxy_lm import plotting
    from proxy_lm.analysis.study import ANALYSES, Study, analyse
    from proxy_lm.data.corpus import Corpus
    from proxy_lm.errors import RequestError

    if not args.views and not args.model:
        raise RequestError("nothing to analyse; name at least one view (a folder or a kind), or a byte model with --model")
    plotting.require()
    _check(args)
    study = Study(
        corpus=Corpus.open(args.corpus),
        split=args.split,
        max_bytes=args.max_bytes,
        views=args.views,
        models=args.model,
        only=tuple(args.only or ANALYSES),
        seed=args.seed,
    )
    return {"out": str(args.out), **analyse(study, args.out)}


def _probe(args: argparse.Namespace) -> dict[str, Any]:
    from proxy_lm import plotting
    from proxy_lm.analysis.probe import TASKS, probe, probe_settings
    from proxy_lm.data.corpus import Corpus
    from proxy_lm.errors import RequestError

    for task in args.tasks:
        if task not in TASKS:
            raise RequestError(f"unknown task '{task}'; known: {', '.join(TASKS)}")
    plotting.require()
    _check_out(args.out)
    settings = probe_settings(args.set)
    corpus = Corpus.open(args.corpus)
    tasks = [task for task in TASKS if task in args.tasks]
    return {"out": str(args.out), **probe(corpus, args.views, args.out, settings, tasks=tasks, split=args.split, held_out=args.held_out)}


def _replicate(args: argparse.Namespace) -> dict[str, Any]:
    from proxy_lm import plotting
    from proxy_lm.analysis.replicate import Replication, replicate
    from proxy_lm.data.corpus import Corpus

    plotting.require()
    _check_out(args.out)
    request = Replication(
        corpus=Corpus.open(args.corpus),
        model=args.model,
        split=args.split,
        max_bytes=args.max_bytes,
        max_training_bytes=args.max_training_bytes,
        rows=args.rows,
    )
    return {"out": str(args.out), **replicate(request, args.out)}


def _check(args: argparse.Namespace) -> None:
    from proxy_lm.errors import RequestError

    _check_out(args.out)
    if not 0 <= args.seed < 2**63:
        raise RequestError(f"--seed {args.seed} is not a whole number from 0 to 2^63 - 1")


def _check_out(out: Path) -> None:
    from proxy_lm.errors import RequestError

    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file; name a folder for the results")
