"""What is measured once for a whole comparison and kept beside it: measured anew only when something it depends on has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compressors.files import digest_of, read_json, write_json


def measured_once(path: Path, depends_on: Any, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` finds, or found when `depends_on` (a JSON value) was the same; kept in the file `path`."""
    key = digest_of(depends_on)
    if path.exists() and (kept := read_json(path, "what is measured once")).get("key") == key:
        found: dict[str, Any] = kept["result"]
        return found
    found = measure()
    write_json(path, {"key": key, "result": found})
    return found
