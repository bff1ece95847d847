"""`python -m eval.sandbox`: which tier works here, after a real try-out, as one JSON object; `proxy-lm doctor` asks this.

{"tier": name or null, "why": sentence}. Exit code 0 in either case: that no tier works is an answer.
"""

from __future__ import annotations

import json

from eval.sandbox.pool import Sandbox
from proxy_lm.errors import RequestError


def main() -> None:
    """Try and tell."""
    told: dict[str, str | None]
    try:
        with Sandbox.open(num_slots=1) as sandbox:
            told = {"tier": sandbox.tier, "why": f"generated programs run in tier {sandbox.tier}"}
    except RequestError as error:
        told = {"tier": None, "why": str(error)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
