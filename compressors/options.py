"""Options of a view: declared once beside the class, checked here, shown by `proxy-lm compressor list`.

Each class declares `options: ClassVar[Mapping[str, Option]]`. `take` fills in the defaults and turns an unknown name, a wrong type or a
value out of range into one sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressors.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its type is the type of `default`, or `kind` where the default is None."""

    default: int | float | bool | str | None
    help: str
    kind: type | None = None
    required: bool = False
    """There is no default; the view says so when it is made without."""
    low: int | None = None
    high: int | None = None

    @property
    def type(self) -> type:
        """What a value must be an instance of."""
        return self.kind or type(self.default)


def take(view: str, known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of every known option. Raises `RequestError` naming the option, the value, the limit and the nearest name."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise RequestError(f"view '{view}' has no option '{name}'{hint}; it has: {', '.join(known) or 'none'}")
    return {name: _checked(view, name, option, given.get(name, option.default)) for name, option in known.items()}


def _checked(view: str, name: str, option: Option, value: Any) -> Any:
    if value is None and option.default is None:
        return None
    if type(value) is not option.type:  # a bool is not a whole number here
        raise RequestError(f"option {name}={value!r} of view '{view}' must be {_WORDS[option.type]}: {option.help}")
    number: Any = value
    if (option.low is not None and number < option.low) or (option.high is not None and number > option.high):
        limits = f"{option.low} to {option.high}" if option.high is not None else f"{option.low} or more"
        raise RequestError(f"option {name}={value} of view '{view}' must be {limits}: {option.help}")
    return value


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
