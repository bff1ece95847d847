"""`proxy-lm inspect FILE`: what views make of one document, side by side. The work is in `proxy_lm.inspect_view`."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

HELP = "show the views of one file side by side: spans, symbols, sizes, stability under deletion"
EXAMPLE = """  proxy-lm inspect proxy_lm/cli.py
  proxy-lm inspect proxy_lm/cli.py --view views/spm --view gzip --html views.html"""

_DEFAULT_VIEWS = ("identity", "doublebyte", "gzip", "zstd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the document")
    parser.add_argument(
        "--view",
        action="append",
        default=[],
        metavar="FOLDER|KIND",
        help=f"an artifact folder, or a kind that needs no training; may be repeated (default: {', '.join(_DEFAULT_VIEWS)})",
    )
    parser.add_argument("--html", type=Path, metavar="OUT", help="also write a page that needs nothing else")
    parser.add_argument("--max-bytes", type=int, default=65_536, metavar="N", help="look at the first N bytes (default: 65536)")
    parser.add_argument(
        "--show-bytes", type=int, default=600, metavar="N", help="bytes of the document printed for each view (default: 600)"
    )
    parser.add_argument(
        "--delete", type=float, default=0.1, metavar="SHARE", help="share of characters deleted for stability (default: 0.1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which characters are deleted")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The numbers, symbols and borders of every view; the page is written here too."""
    from compressors.files import write_bytes
    from proxy_lm.errors import RequestError
    from proxy_lm.inspect_page import page
    from proxy_lm.inspect_view import inspect_document, read_document
    from proxy_lm.progress import note
    from proxy_lm.view_training import open_view

    names = list(dict.fromkeys(args.view or _DEFAULT_VIEWS))
    if args.seed < 0:
        raise RequestError(f"--seed {args.seed} is negative; give 0 or more")
    if args.show_bytes < 0:
        raise RequestError(f"--show-bytes {args.show_bytes} is negative; give 0 or more")
    views = {name: open_view(name) for name in names}
    data, file_bytes = read_document(args.file, args.max_bytes)
    result = {
        "file": str(args.file),
        "file_bytes": file_bytes,
        "num_bytes": len(data),
        "document_base64": base64.b64encode(data).decode(),
        "shown_bytes": args.show_bytes,
        "deleted_share": args.delete,
        "seed": args.seed,
        "views": inspect_document(data, views, rate=args.delete, seed=args.seed),
    }
    if args.html:
        write_bytes(args.html, page(result, data).encode())
        note(f"inspect: wrote {args.html}")
    return result


def show(result: dict[str, Any]) -> None:
    """The table and the coloured beginnings."""
    from proxy_lm.inspect_view import terminal

    terminal(result)
