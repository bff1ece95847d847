"""`proxy-lm-eval`: measuring. The same command shape as `proxy_lm.cli`.

proxy-lm-eval bpb runs/nano --split test
proxy-lm-eval compare configs/compare/quickstart.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from proxy_lm.cli import run_program

COMMANDS: Mapping[str, str] = {
    "align": "eval.commands.align",
    "bpb": "eval.commands.bpb",
    "code": "eval.commands.code",
    "compare": "eval.commands.compare",
    "compression": "eval.commands.compression",
    "copying": "eval.commands.copying",
    "lines": "eval.commands.lines",
    "report": "eval.commands.report",
    "robustness": "eval.commands.robustness",
    "samples": "eval.commands.samples",
    "tables": "eval.commands.tables",
    "translate": "eval.commands.translate",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script `proxy-lm-eval`."""
    return run_program("proxy-lm-eval", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
