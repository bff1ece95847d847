"""What arms write after the same held-out prompts, side by side: the part of a report that is read and not counted.

Read from `ArmResult.evaluations["samples"]`, a result of `proxy-lm-eval samples` (`eval.shown_samples`):

    {"schema": "proxy-lm samples 1", "samples": [{"source": "pkg/file.py", "prompt": "...", "completion": "...", "truth": "..."}]}

All but prompt and completion may be missing. A comparison without it has no such part.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eval.report_groups import groups
from eval.results import Results
from proxy_lm.report import Section

KEY: Final = "samples"
MOST_PROMPTS: Final = 6
RAW: Final = "in raw bytes"
_BLANKS: Final = re.compile(" {40,}")
_MOST_EQUAL_LINES: Final = 4

Asked = Mapping[str, Mapping[str, Any]]
"""Results of `proxy-lm-eval samples` by the name under which they are shown."""


def sections(results: Results) -> list[Section]:
    """One section a prompt, from the group with the most FLOPs that has samples; the first seed of each arm."""
    having = [group for group in groups(results) if any(_samples(run.evaluations.get(KEY)) for run in group.runs)]
    if not having:
        return []
    group = max(having, key=lambda group: max(run.training_flops for run in group.runs))
    asked = {}
    for name, runs in group.arms.items():
        found = [run for run in runs if _samples(run.evaluations.get(KEY))]
        if found:
            asked[name] = found[0].evaluations[KEY]
    one_seed = ["the first seed of each arm"] if len({run.seed for run in group.runs}) > 1 else []
    return beside("each arm", asked, [*([group.title(results.baseline)] if group.name else []), *one_seed])


def of_runs(results: Asked) -> list[Section]:
    """The same of single runs, by name; [] where none was asked."""
    return beside("each run", {name: found for name, found in results.items() if _samples(found)}, [])


def beside(who: str, asked: Asked, where: Sequence[str]) -> list[Section]:
    """A section for each of the first `MOST_PROMPTS` prompts, all but the first folded. `where` says which runs these are."""
    prompts = list(dict.fromkeys(str(sample["prompt"]) for found in asked.values() for sample in _samples(found)))[:MOST_PROMPTS]
    sections = []
    for number, prompt in enumerate(prompts, 1):
        written = {name: sample for name, found in asked.items() for sample in _samples(found) if sample["prompt"] == prompt}
        text = _explained(who, asked, where) if number == 1 else []
        sections.append(Section(f"Sample {number} of {len(prompts)}", text, code=page(written), folded=number > 1))
    return sections


def _explained(who: str, asked: Asked, where: Sequence[str]) -> list[str]:
    settings = [found["settings"] for found in asked.values() if "settings" in found]
    how = f" {how_of(settings[0]).capitalize()}." if settings else ""
    of = f" ({'; '.join(where)})" if where else ""
    lines = [
        f"What {who} writes after the same held-out prompt{of}; nothing was chosen or left out.{how} Not a measurement. What counts blanks "
        "or equal lines in square brackets was not written by a model."
    ]
    readings = {name: reading_of(found["run"]) for name, found in asked.items() if "run" in found}
    other = {name: reading for name, reading in readings.items() if reading != RAW}
    if other:
        rest = ["the others in raw bytes"] if len(other) < len(readings) else []
        lines.append("; ".join([*(f"{name} was asked {reading}" for name, reading in other.items()), *rest]) + ".")
    return lines


def how_of(settings: Mapping[str, Any]) -> str:
    """'greedy, at most 160 bytes'."""
    how = "greedy" if not settings.get("temperature") else f"drawn at temperature {settings['temperature']:g}"
    return f"{how}, at most {settings['num_bytes']} bytes"


def reading_of(run: Mapping[str, Any]) -> str:
    """How a run was asked, from what a result says of it."""
    return RAW if run["view"] == "raw" else f"in symbols of {run['view']}" + (", its prompts healed" if run["healing"] else "")


def place_of(sample: Mapping[str, Any]) -> str:
    """'pkg/file.py, line 41'; '' where it is not told."""
    parts = [str(sample["source"])] if sample.get("source") else []
    return ", ".join([*parts, *([f"line {sample['line']}"] if parts and "line" in sample else [])])


def page(written: Mapping[str, Mapping[str, Any]]) -> str:
    """The prompt, what really follows, and every completion, each indented under a line that names who wrote it."""
    first = next(iter(written.values()))
    source = place_of(first)
    parts = [("prompt" + (f", {source}" if source else ""), str(first["prompt"]))]
    if first.get("truth") is not None:
        parts.append(("what follows there", str(first["truth"])))
    same: dict[tuple[str, bool], list[str]] = {}
    for name, sample in written.items():
        same.setdefault((str(sample["completion"]), bool(sample.get("ended"))), []).append(name)
    parts += [(", ".join(names) + (" (and the end of the document)" if ended else ""), text) for (text, ended), names in same.items()]
    # The indentation also keeps a text that is like such a line, or like the end of a block of Markdown, from being taken for one.
    return "\n\n".join(f"--- {name}\n{textwrap.indent(visible(text), '    ')}" for name, text in parts)


def visible(text: str) -> str:
    """Text as it is, without the few blanks at its end; control characters that a page or a terminal would swallow or obey, and what
    nobody would count, many blanks and equal lines one after another, told by their number."""
    if not text.strip():
        return f"[{len(text)} blank{'s' * (len(text) > 1)}]" if text else "[nothing]"
    shown = "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    shown = _BLANKS.sub(lambda found: f"[{len(found[0])} blanks]", shown).rstrip()
    lines: list[str] = []
    for line, same in itertools.groupby(shown.split("\n")):
        times = len(list(same))
        lines += [line] * times if times <= _MOST_EQUAL_LINES else [line, f"[the same line {times - 1} times more]"]
    return "\n".join(lines)


def _samples(result: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    found = (result or {}).get("samples", [])
    return [sample for sample in found if "prompt" in sample and "completion" in sample]
