"""What arms write after the same held-out prompts, side by side: the part of a report that is read and not counted.

Read from `ArmResult.evaluations["samples"]`:

    {"schema": "proxy-lm samples 1", "samples": [{"source": "pkg/file.py", "prompt": "...", "completion": "...", "truth": "..."}]}

`source` and `truth` may be missing. A comparison without it has no such part.
"""

from __future__ import annotations

from typing import Any, Final

from eval.report_groups import Group, groups
from eval.results import ArmResult, Results
from proxy_lm.report import Section

KEY: Final = "samples"
MOST_PROMPTS: Final = 6


def sections(results: Results) -> list[Section]:
    """One section a prompt, from the group with the most FLOPs that has samples; the first seed of each arm."""
    having = [group for group in groups(results) if any(_samples(run) for run in group.runs)]
    if not having:
        return []
    group = max(having, key=lambda group: max(run.training_flops for run in group.runs))
    runs = [next(run for run in runs if _samples(run)) for runs in group.arms.values() if any(map(_samples, runs))]
    prompts = list(dict.fromkeys(str(sample["prompt"]) for run in runs for sample in _samples(run)))[:MOST_PROMPTS]
    found = []
    for number, prompt in enumerate(prompts, 1):
        title = f"Sample {number} of {len(prompts)}"
        found.append(Section(title, _explained(group, results) if number == 1 else [], code=_beside(runs, prompt), folded=number > 1))
    return found


def _explained(group: Group, results: Results) -> list[str]:
    which = f" ({group.title(results.baseline)})" if group.name else ""
    return [f"What each arm writes after the same held-out prompt{which}; nothing was chosen or left out. Not a measurement."]


def _beside(runs: list[ArmResult], prompt: str) -> str:
    """The prompt, what really follows, and every arm's completion, each under a line that names it."""
    written = {run.name: sample for run in runs for sample in _samples(run) if sample["prompt"] == prompt}
    first = next(iter(written.values()))
    parts = [("prompt" + (f", {first['source']}" if first.get("source") else ""), prompt)]
    if first.get("truth") is not None:
        parts.append(("what follows there", str(first["truth"])))
    parts += [(name, str(sample["completion"])) for name, sample in written.items()]
    return "\n\n".join(f"--- {name}\n{_visible(text)}" for name, text in parts)


def _visible(text: str) -> str:
    """Text as it is, with control characters that a page would swallow told by their number."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _samples(run: ArmResult) -> list[dict[str, Any]]:
    found = run.evaluations.get(KEY, {}).get("samples", [])
    return [sample for sample in found if "prompt" in sample and "completion" in sample]
