"""When an answer agrees with the gold answer, by the rules of EvalPlus. Standard library only: the judge runs the text of this module.

`eval.plus` puts this source in front of the tests of a HumanEval+ or MBPP+ release problem. Rules as in evalplus 0.3.1: equality; for
floats closeness, with the problem's tolerance and 1e-7 relative; and the few tasks whose published answer is not the only right one.
"""

import math
from typing import Any

NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}  # gold says found by anything, and not found by None
AS_SETS = {
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
}


def agrees(entry_point: str, arguments: Any, got: Any, expected: Any, tolerance: float, is_mbpp: bool) -> bool:
    """Whether `got` is a right answer where the gold solution gives `expected`."""
    if is_mbpp:
        said = _mbpp_rule(entry_point, arguments, got, expected, tolerance)
        if said is not None:
            return said
    elif entry_point == "find_zero":
        coefficients = arguments[0]
        return bool(abs(sum(c * math.pow(got, power) for power, c in enumerate(coefficients))) <= tolerance)
    return bool(got == expected) or _close(got, expected, tolerance)


def _mbpp_rule(entry_point: str, arguments: Any, got: Any, expected: Any, tolerance: float) -> "bool | None":
    """The verdict where a task has a rule of its own; None where the general rule decides."""
    if entry_point == "are_equivalent":
        return True
    if entry_point in AS_SETS:
        return set(got) == set(expected)
    if entry_point in NOT_NONE:
        found = expected is not None
        return got == found if isinstance(got, bool) else (got is not None) == found
    also = False
    if entry_point == "sum_div":
        also = got == 0
    elif entry_point == "surface_Area":
        base, height = arguments
        slant = math.sqrt((base / 2) ** 2 + height**2)
        also = abs(got - round(base**2 + 2 * base * slant)) <= tolerance
    elif entry_point == "digit_distance_nums":
        first, second = str(arguments[0]), str(arguments[1])
        width = max(len(first), len(second))
        also = got == sum(abs(int(a) - int(b)) for a, b in zip(first.zfill(width), second.zfill(width), strict=True))
    return True if also else None


def _close(got: Any, expected: Any, tolerance: float) -> bool:
    """Element by element within the tolerance; floats have one of 1e-6 where the problem gives none. Types must be the same."""
    sequence = isinstance(expected, list | tuple)
    floats = isinstance(expected, float) or (sequence and bool(expected) and all(isinstance(item, float) for item in expected))
    tolerance = tolerance or (1e-6 if floats else 0.0)
    if tolerance == 0 or type(got) is not type(expected):
        return False
    if sequence:
        return len(got) == len(expected) and all(_near(a, b, tolerance) for a, b in zip(got, expected, strict=True))
    return _near(got, expected, tolerance)


def _near(got: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(got, list | tuple) and isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(_near(a, b, tolerance) for a, b in zip(got, expected, strict=True))
    if not isinstance(got, int | float | complex) or not isinstance(expected, int | float | complex):
        return False
    return bool(got == expected or abs(got - expected) <= tolerance + 1e-7 * abs(expected))
