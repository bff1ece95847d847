"""All perturbations by name and by family.

chosen(["syntax", "typos"])        # a family stands for its members
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.perturb.base import FAMILIES, Perturbation
from eval.perturb.docstring import DOCSTRING
from eval.perturb.layout import FORMAT
from eval.perturb.names import FUNCTION_NAME
from proxy_lm.errors import RequestError

try:
    from eval.perturb.expressions import EXPRESSIONS
    from eval.perturb.loops import LOOPS
except ImportError as error:
    if error.name != "libcst":
        raise
    raise RequestError("perturbing syntax needs libcst, which is not installed; run: pip install 'proxy-lm[eval]'") from error

PERTURBATIONS: tuple[Perturbation, ...] = (*DOCSTRING, *FUNCTION_NAME, *LOOPS, *EXPRESSIONS, *FORMAT)
_BY_NAME = {perturbation.name: perturbation for perturbation in PERTURBATIONS}
assert len(_BY_NAME) == len(PERTURBATIONS), "two perturbations have one name"


def perturbation(name: str) -> Perturbation:
    """One by name. Raises `RequestError` for an unknown one."""
    if name not in _BY_NAME:
        raise RequestError(f"unknown perturbation '{name}'; families: {', '.join(FAMILIES)}; perturbations: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def chosen(names: Sequence[str]) -> tuple[Perturbation, ...]:
    """Those named, families included, in the order of `PERTURBATIONS`; all of them for no name at all."""
    wanted = {name for name in names if name not in FAMILIES and perturbation(name)}
    return tuple(p for p in PERTURBATIONS if not names or p.name in wanted or p.family in names)
