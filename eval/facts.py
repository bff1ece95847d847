"""Published facts beside what kept comparisons show: rows 'paper says / we see', computed, never typed.

    text, table = table(kept, analysis)        kept: name -> Results; analysis(name, pairs) -> Analysis

`FACTS` is the list. A fact names arms; every kept comparison that has them is looked at, all its scales and budgets. A fact without such
a comparison is told as not run. Published scores are pass@1 of billions of parameters and ours are bits per byte of millions, so what is
compared is the direction. Papers: *proxy* is arXiv 2602.04289 (v2), *tokens of compression* is arXiv 2404.03626.

Agrees: every verdict is what the paper says. Differs: none is, and some are the opposite. In part: both, or ties beside what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from eval.fact_evidence import Analyses, Says, Seen, Shelf, outcome_of, pairs_apart, place
from eval.facts_evaluations import asked, perturbed, translated
from eval.grid_analysis import PairVerdict
from eval.kept import effective_views
from eval.learnt import run_of, uniform_bits
from eval.results import ArmResult, Results
from eval.seed_noise import mark
from eval.table_kinds import gap, span
from proxy_lm.report import Table

EQUAL_RATE: Final = 0.05
"""Views whose bytes per symbol are further apart do not hold equal bytes per symbol."""
NOTHING_LEARNT: Final = 0.01
"""A model that saves less than this share of the uniform model's bits has learnt nothing of its text."""
MUCH_LEARNT: Final = 0.1


@dataclass(frozen=True)
class Fact:
    """One row."""

    title: str
    paper: str
    look: Callable[[Shelf], Seen]
    needs: str
    """Arms that a comparison must have, for a row that is not run."""


def table(kept: Mapping[str, Results], analysis: Analyses) -> tuple[list[str], Table]:
    """All facts: the paragraphs above the table, and the table."""
    shelf = Shelf(kept, analysis)
    rows = []
    for fact in FACTS:
        seen = fact.look(shelf)
        text = "<br>".join(seen.lines) if seen.lines else f"not run: no kept comparison has a score of {fact.needs}"
        rows.append([fact.title, fact.paper, text, f"**{seen.outcome}**" if seen.outcome == "differs" else seen.outcome])
    text = (
        "Differences are bits per byte of an arm minus those of the other (95 % over seeds and projects), verdicts corrected for all "
        "pairs of their comparison; differences in other evaluations have 95 % over seeds alone and no correction. A claim of 'at least as "
        "good' agrees where nothing is worse: a tie counts, and may be for want of seeds. The papers' scores are of larger models and "
        "other metrics: only directions are compared."
    )
    return [text], Table(["fact", "paper says", "we see", "outcome"], rows, frozenset(range(4)))


def _judged(shelf: Shelf, name: str, results: Results, arm: str, against: str) -> list[PairVerdict]:
    """Verdicts of a pair at every scale and budget, smaller first."""
    found = shelf.analysis(name, () if against == results.baseline else ((arm, against),))
    sizes = {(p.scale, p.budget): (p.num_body_parameters, p.flops) for p in found.points}
    verdicts = [v for v in found.verdicts if (v.arm, v.against) == (arm, against) and v.difference is not None]
    return sorted(verdicts, key=lambda v: sizes[v.scale, v.budget])


def told(v: PairVerdict) -> str:
    """The difference and the verdict in a line."""
    return f"{gap(v)}, {v.verdict}{': one seed' if v.verdict == 'not judged' else ''}"


def pair(arm: str, against: str, says: Says, *, smallest: bool = False, of_pairs: bool = False) -> Callable[[Shelf], Seen]:
    """One arm against another; with `smallest` at the smallest scale of each comparison alone. What rests on the same runs of `arm` in two
    comparisons counts once. With `of_pairs` a comparison decides nothing where the two tellings of a pair hardly meet in a row."""

    def look(shelf: Shelf) -> Seen:
        lines, words = [], []
        seen: dict[Identity, str] = {}
        for name, results in shelf.having(arm, against):
            verdicts = _judged(shelf, name, results, arm, against)
            apart = pairs_apart(results) if of_pairs else ""
            shown = [v for v in verdicts if v.scale == verdicts[0].scale] if smallest else verdicts
            for v in shown:
                here = place(name, v.scale, v.budget)
                runs = [identity(run) for run in results.finished if (run.name, run.scale, run.budget) == (arm, v.scale, v.budget)]
                before = [seen[one] for one in runs if one in seen]
                if same := len(before) == len(runs):
                    many = "s" if len(runs) > 1 else ""
                    lines.append(f"{here}: {told(v)}; the same run{many} of `{arm}` as in {before[0]}, counted once")
                else:
                    lines.append(f"{here}: {told(v)}{apart}")
                words += [] if same else ["not decided" if apart else v.verdict]
                seen |= {one: here for one in runs if one is not None and one not in seen}
        return Seen(lines, outcome_of(words, says)) if lines else Seen()

    return look


Identity = tuple[str, float | None, float | None]
"""Digest of the plan of rows, learning rate, bits per byte: two results that share them are one run, in two comparisons."""


def identity(run: ArmResult) -> Identity | None:
    """What makes a run the same in two comparisons; None for a result without a digest."""
    digest = run.final.get("plan_digest")
    return None if digest is None else (str(digest), run.learning_rate, run.bits_per_byte)


def equal_rate(arm: str, against: str, says: Says) -> Callable[[Shelf], Seen]:
    """A pair that is one of views with equal bytes per symbol; what is further apart than `EQUAL_RATE` decides nothing."""

    def look(shelf: Shelf) -> Seen:
        lines, words = [], []
        for name, results in shelf.having(arm, against):
            mine, other = (_bytes_per_symbol(results, one) for one in (arm, against))
            equal = mine is not None and other is not None and abs(mine / other - 1) <= EQUAL_RATE
            rates = "rates unknown" if mine is None or other is None else f"{mine:.2f} and {other:.2f} bytes a symbol"
            for v in _judged(shelf, name, results, arm, against):
                lines.append(f"{place(name, v.scale, v.budget)} ({rates}{'' if equal else ': not equal'}): {told(v)}")
                words.append(v.verdict if equal else "not decided")
        return Seen(lines, outcome_of(words, says)) if lines else Seen()

    return look


def _bytes_per_symbol(results: Results, arm: str) -> float | None:
    """Of the only view of an arm; None for several."""
    views = effective_views(results, arm)
    return float(results.views[views[0]]["bytes_per_symbol"]) if len(views) == 1 and views[0] in results.views else None


def grows(*arms: str) -> Callable[[Shelf], Seen]:
    """Whether arms gain on the baseline with scale."""

    def look(shelf: Shelf) -> Seen:
        lines, words = [], []
        for name, results in shelf.kept.items():
            if not any(run.name in arms for run in results.finished):
                continue
            for line in shelf.analysis(name, whole=True).by_scale:
                if line.arm in arms and line.slope is not None:
                    trend = {"gains": "better", "loses": "worse"}.get(line.trend, "not decided")
                    slope = (
                        f"{line.slope:+.1f} %{span(line.interval, 1, '+')}{mark(line.seed_noise, line.interval)} a tenfold of parameters"
                    )
                    unjudged = ": one seed" if line.trend == "not judged" else ""
                    lines.append(f"{place(name, None, line.budget)}, `{line.arm}`: {slope}, {line.trend}{unjudged}")
                    words.append(trend)
        return Seen(lines, outcome_of(words, "better")) if lines else Seen()

    return look


def learnable(shelf: Shelf) -> Seen:
    """Models asked in symbols of arithmetic code, with windows and without, beside the uniform model over the same symbols."""
    lines: list[str] = []
    shares: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    alone = False
    for name, results in shelf.kept.items():
        for point in shelf.analysis(name).points:
            run = run_of(results, point)
            coded = None if run is None else _is_one_code(results, run)
            uniform = None if run is None else uniform_bits(results, run)
            if coded is None or uniform is None or point.mean is None:
                continue
            alone |= point.seed_noise == "none"
            high = point.mean if point.interval is None else point.interval[1]
            shares[coded].append((1 - point.mean / uniform, 1 - high / uniform))
            what = "one arithmetic code" if coded else "equal-info windows"
            what += ", one seed" if point.seed_noise == "none" else ""
            learnt = f"{point.mean:.3f} of {uniform:.3f} bits per byte, {100 * (1 - point.mean / uniform):.1f} % learnt"
            lines.append(f"{place(name, point.scale, point.budget)}, `{point.arm}` ({what}): {learnt}")
    if not (shares[True] and shares[False]):
        return Seen([*lines, *(["not run: only one of the two kinds has a score"] if lines else [])], "not run")
    if alone:
        return Seen(lines, "not decided")
    # The mean, not a bound: an interval so wide that nothing cannot be ruled out does not show that nothing was learnt.
    nothing = [mean < NOTHING_LEARNT for mean, _ in shares[True]]
    much = [low > MUCH_LEARNT for _, low in shares[False]]
    if all(nothing) and all(much):
        return Seen(lines, "agrees")
    return Seen(lines, "in part" if any(nothing) and any(much) else "differs")


def _is_one_code(results: Results, run: ArmResult) -> bool | None:
    """Whether a compressed-only arm reads one arithmetic code a document (True) or equal-info windows (False); None for other arms."""
    view = results.plan["views"].get(run.view)
    if view is None:
        return None
    if view["kind"] in ("stream", "stream-inexact"):
        return bool(view.get("options", {}).get("coder", "windows") == "arithmetic")
    return False if view["kind"] in ("table", "table-paper", "segments", "cached", "phrases") else None


FACTS: Final = (
    Fact(
        "gzip does not teach raw bytes",
        "a gzip proxy is below the byte model at every setting (proxy, section 4)",
        pair("proxy_gzip", "bytes", "worse"),
        "`proxy_gzip` and `bytes`",
    ),
    Fact(
        "arithmetic code is not learnable, equal-info windows are",
        "of the uniform model's bits per byte: 1.46 of 1.46 for one code a text, at every size; 1.25 to 0.94 of 3.01 for 16-bit windows "
        "(tokens of compression, main table)",
        learnable,
        "a view that is one arithmetic code and of one of equal-info windows, each told alone",
    ),
    Fact(
        "windows alone beat bytes",
        "16-bit windows with one symbol each: 1.25 against 1.29 at 25M, 0.94 against 1.03 at 2B (tokens of compression, main table)",
        pair("windows", "bytes", "better"),
        "`windows` and `bytes`",
    ),
    Fact(
        "tokens alone beat windows alone",
        "1.12 against 1.25 at 25M, 0.87 against 0.94 at 2B (tokens of compression, main table)",
        pair("tokens", "windows", "better"),
        "`tokens` and `windows`",
    ),
    Fact(
        "a token proxy is at least as good as a neural one, at equal bytes a symbol",
        "HumanEval+ 20.7 against 18.3 at 1.5B, 30.5 against 29.9 at 14B; 2.9 and 2.6 bytes a symbol (proxy, main table)",
        equal_rate("proxy_spm", "proxy_neural", "at least as good"),
        "`proxy_spm` and `proxy_neural`",
    ),
    Fact(
        "proxies hurt at the smallest size",
        "HumanEval+ 12.2 (token) and 13.4 (neural) against 15.9 of bytes at 0.5B (proxy, main table)",
        pair("proxy_spm", "bytes", "worse", smallest=True),
        "`proxy_spm` and `bytes`",
    ),
    Fact(
        "their margin grows with size",
        "token proxy -3.7, +2.4, +2.4, +2.4, +6.1 HumanEval+ against bytes from 0.5B to 14B (proxy, main table)",
        grows("proxy_spm", "proxy_neural"),
        "`proxy_spm` or `proxy_neural` at two scales",
    ),
    Fact(
        "robustness stays that of bytes",
        "robust pass@1 at 7B: 19.1 neural proxy, 18.7 bytes, 14.9 tokenizer (proxy, ReCode)",
        asked(perturbed, "proxy_spm", "bytes", "tokens", less_is_better=True, says="at least as good", loser="tokens"),
        "the evaluation `robustness` for `proxy_spm` and `bytes`",
    ),
    Fact(
        "pairs while warming up beat pairs always",
        "HumanEval+ 20.7 against 17.0 at 1.5B (proxy, pairing ablation)",
        pair("pairs_warmup", "pairs_always", "better", of_pairs=True),
        "`pairs_warmup` and `pairs_always`",
    ),
    Fact(
        "... and beat no pairs",
        "HumanEval+ 20.7 against 17.0 at 1.5B (proxy, pairing ablation)",
        pair("pairs_warmup", "pairs_none", "better", of_pairs=True),
        "`pairs_warmup` and `pairs_none`",
    ),
    Fact(
        "pairs always translate best",
        "96 % in context against 30 to 46 % without pairs (proxy, pairing ablation)",
        asked(translated, "pairs_always", "pairs_none", "pairs_warmup", less_is_better=False, says="better"),
        "the evaluation `translate` for `pairs_always` and `pairs_none`",
    ),
)
