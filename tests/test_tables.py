"""Published tables are written from kept results and nothing else: what stands between the marks follows the files, or a check fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval import kept, report_search, results, tables
from eval.cli import main
from proxy_lm.config import validate
from proxy_lm.errors import RequestError, WorkError

ROOT = Path(__file__).resolve().parent.parent
SCALES = {"s0": 300_000, "s1": 1_000_000}
README = "# Title\n\n<!-- table: ladder main -->\nold\n<!-- end -->\n\nBelow.\n"


@pytest.fixture
def ladder(comparison):
    """Two scales, three seeds: tokens far better, a proxy that wins at the larger scale only, gzip far worse with one failed run."""
    return comparison(
        "ladder",
        {
            "bytes": 2.5,
            "tokens": 2.2,
            "proxy_spm": lambda scale, _: 2.6 if scale == "s0" else 2.4,
            "proxy_gzip": 2.9,
        },
        scales=SCALES,
        views={"tokens": "spm", "proxy_spm": "spm", "proxy_gzip": "gzip"},
        alone=("tokens",),
        failed=frozenset({("proxy_gzip", "s1", None, 2)}),
    )


@pytest.fixture
def repository(tmp_path, ladder):
    """A folder that looks like the repository, with one kept comparison."""
    (tmp_path / kept.KEPT).mkdir(parents=True)
    (tmp_path / kept.KEPT / "ladder.json").write_text(kept.spelled(kept.slimmed(ladder)))
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def block(repository, words):
    """What the command writes between the marks of a block."""
    (repository / "README.md").write_text(f"<!-- table: {words} -->\n<!-- end -->\n")
    tables.in_step(repository, write=True)
    lines = (repository / "README.md").read_text().splitlines()
    assert lines[-1] == "<!-- end -->"
    return lines[1:-1]


def rows_of(lines):
    """Cells of a Markdown table, without its head."""
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return found[2:]


def test_this_repository_is_in_step():
    tables.check(ROOT)


def test_a_changed_result_or_an_edited_table_is_out_of_step(repository, ladder):
    with pytest.raises(WorkError, match=r"README\.md:3 \(table: ladder main\).*run: proxy-lm-eval tables"):
        tables.check(repository)
    assert tables.in_step(repository, write=True) == ["README.md:3 (table: ladder main)"]
    tables.check(repository)
    text = (repository / "README.md").read_text()
    assert text.startswith("# Title\n\n<!-- table: ladder main -->\n")
    assert text.endswith("<!-- end -->\n\nBelow.\n")
    (repository / "README.md").write_text(text.replace("| better |", "| worse |", 1))
    with pytest.raises(WorkError):
        tables.check(repository)
    tables.in_step(repository, write=True)
    assert (repository / "README.md").read_text() == text
    fewer = ladder.model_copy(update={"arms": [arm for arm in ladder.arms if arm.seed != 2]})
    (repository / kept.KEPT / "ladder.json").write_text(kept.spelled(fewer))
    with pytest.raises(WorkError):
        tables.check(repository)


def test_the_main_table_by_eye(repository):
    lines = block(repository, "ladder main")
    head = " ".join(lines)
    assert "`proxy-lm-eval compare configs/compare/ladder.yaml`, 2026-11-21, on CPU (x86_64), 2 cores; seeds 0, 1, 2" in head
    assert "Holm's correction for 6 pairs" in head
    rows = {(row[0], row[1]): row for row in rows_of(lines)}
    assert list(rows)[:4] == [("s0", "`bytes`"), ("s0", "`tokens`"), ("s0", "`proxy_spm`"), ("s0", "`proxy_gzip`")]
    # The hardness of projects shifts all arms by the same, so differences are what was put in.
    for (scale, arm), verdict, difference in (
        (("s0", "`tokens`"), "better", "-0.30"),
        (("s0", "`proxy_spm`"), "**worse**", "+0.10"),
        (("s1", "`proxy_spm`"), "better", "-0.10"),
        (("s1", "`proxy_gzip`"), "**worse**", "+0.40"),
    ):
        row = rows[scale, arm]
        assert row[6] == verdict
        assert row[5].startswith((difference, f"{float(difference) - 0.001:+.3f}", f"{float(difference) + 0.001:+.3f}"))
    assert rows["s0", "`tokens`"][2] == "spm"
    assert rows["s0", "`proxy_spm`"][2] == "raw"
    assert rows["s0", "`bytes`"][6:] == ["baseline", "20 T", "20 T"]
    assert rows["s0", "`tokens`"][7:] == ["20 T", "21 T"]
    assert rows["s1", "`proxy_gzip`"][4].startswith("2, sd ")
    assert rows["s1", "`proxy_gzip`"][4].endswith("1 failed")


def test_a_ranking_has_the_best_first_and_says_what_it_changes(repository):
    rows = rows_of(block(repository, "ladder ranking arms=proxy_spm,proxy_gzip,tokens"))
    assert [row[0] for row in rows] == ["`tokens`", "`proxy_spm`", "`proxy_gzip`"]
    assert rows[1][1] == "`views: [spm]`"
    assert rows[2][2].endswith("**worse**")
    assert [row[0] for row in rows_of(block(repository, "ladder ranking scale=s1 first=2"))] == ["`tokens`", "`proxy_spm`"]


def test_gaps_growth_fits_and_multipliers_are_tables_too(repository):
    gaps = rows_of(block(repository, "ladder gaps scale=s1"))
    assert [row[0] for row in gaps] == ["`bytes`, bits per byte", "`tokens`", "`proxy_spm`", "`proxy_gzip`"]
    growth = rows_of(block(repository, "ladder growth arms=proxy_spm"))
    assert growth[0][0] == "`proxy_spm`"
    assert growth[0][1].startswith("+")
    assert growth[0][2].startswith("-")
    assert len(rows_of(block(repository, "ladder fits"))) == 4
    assert [row[0] for row in rows_of(block(repository, "ladder multipliers scale=s0"))] == ["s0"] * 3


def test_numbers_of_one_seed_are_marked_and_the_line_under_the_table_says_so(repository, comparison):
    """At x1 one arm of several lends its seed noise; at x4 there is one seed of each, and the noise of x1 serves."""

    def base(_scale, budget):
        return 2.5 if budget == "x1" else 2.5 * 4**-0.1

    late = {(arm, None, budget, seed) for arm in ("bytes", "proxy", "other") for budget in ("x1", "x4") for seed in (1, 2)}
    lost = frozenset(late - {("bytes", None, "x1", 1), ("bytes", None, "x1", 2), ("other", None, "x1", 1)})
    arms = {"bytes": base, "proxy": lambda *_: 2.45, "other": 2.6}
    found = comparison("early", arms, budgets={"x1": 1e13, "x4": 4e13}, views={"proxy": "spm"}, failed=lost)
    (repository / kept.KEPT / "early.json").write_text(kept.spelled(found))
    borrowed = "‡ one seed of an arm: its seed noise is borrowed from the arms with several seeds at the same scale and budget."
    elsewhere = "§ one seed of every arm at a scale and budget: the seed noise is the largest of the other scales and budgets."

    def told(words):
        lines = block(repository, words)
        last = max(place for place, line in enumerate(lines) if line.startswith("|"))
        return {row[0] + row[1]: row for row in rows_of(lines)}, " ".join(lines[last + 1 :]).strip()

    rows, under = told("early main")
    assert under == f"{borrowed} {elsewhere}"
    assert [rows[key][3][-1] for key in ("x1`bytes`", "x1`proxy`", "x4`bytes`", "x4`proxy`")] == [")", "‡", "§", "§"]
    assert ")‡, " in rows["x1`proxy`"][5]
    assert rows["x1`proxy`"][6].endswith("‡")
    assert rows["x4`proxy`"][6].endswith("§")
    assert "‡" not in "".join(rows["x1`other`"])
    rows, under = told("early main budget=x1 arms=bytes,other")
    assert under == ""
    for words in ("early gaps", "early ranking"):
        lines = block(repository, words)
        proxy = next(row for row in rows_of(lines) if row[0] == "`proxy`")
        assert [cell[-1] for cell in proxy[-2:]] == ["‡", "§"]
        assert borrowed in " ".join(lines)
    # A multiplier uses the baseline's curve, one point of which has one seed.
    rows, under = told("early multipliers budget=x1 arms=bytes,proxy")
    assert [cell[-1] for cell in rows["x1`proxy`"][2:4]] == ["§", "§"]
    assert under == elsewhere


def test_an_arm_that_was_searched_over_fewer_rates_is_named(repository, ladder):
    tried = [
        {"arm": arm, "scale": "s0", "learning_rate": rate, "seed": 1000, "training_flops": 1e12, "bits_per_byte": bits}
        for arm, last in (("bytes", 2.85), ("tokens", None))
        for rate, bits in ((0.002, 2.9), (0.004, 2.8), (0.008, last))
    ]
    chosen = [{"arm": arm, "scale": "s0", "learning_rate": 0.004, "reason": "searched"} for arm in ("bytes", "tokens")]
    found = validate(results.Results, ladder.model_dump(mode="json") | {"searched": tried, "chosen": chosen}, source="ladder")
    (repository / kept.KEPT / "ladder.json").write_text(kept.spelled(found))
    sentence = "Searched over fewer rates than the others, since a try failed or did not run: tokens at s0 among 2 of 3 (none at 0.008)."
    assert sentence in " ".join(block(repository, "ladder rates"))
    (section,) = report_search.sections(found)
    assert sentence in section.text
    # All arms without the same rate were searched alike.
    equal = [one for one in found.searched if one.bits_per_byte is not None and one.learning_rate != 0.008]
    assert report_search.searched_less(found.model_copy(update={"searched": equal})) == []


def test_the_answers_of_the_report_are_a_list(repository):
    lines = block(repository, "ladder answers")
    assert lines[1].startswith("`proxy-lm-eval compare configs/compare/ladder.yaml`, 2026-11-21")
    points = [line for line in lines if line.startswith("* ")]
    assert any(line.startswith("* tokens: better than bytes in all 2") for line in points)


def test_two_budgets_give_a_multiplier_by_eye(comparison, repository):
    # The baseline falls as C^-0.1, and the arm has at x1 what the baseline has at 1.5 times that.
    def base(_scale, budget):
        return 2.5 if budget == "x1" else 2.5 * 4**-0.1

    found = comparison(
        "pays", {"bytes": base, "proxy": lambda *_: 2.5 * 1.5**-0.1}, budgets={"x1": 1e13, "x4": 4e13}, views={"proxy": "spm"}
    )
    (repository / kept.KEPT / "pays.json").write_text(kept.spelled(found))
    rows = {row[0]: row for row in rows_of(block(repository, "pays multipliers"))}
    # Hard projects move both arms by the same amount, so the planted factor is met only nearly.
    value, low, high = (float(word.strip("()*")) for word in rows["x1"][2].replace("to ", "").split())
    assert low < value < high
    assert 1.3 < value < 1.7
    assert float(rows["x1"][3].split()[0]) < value


def test_the_rates_that_were_tried_stand_beside_the_one_taken(repository, ladder):
    tried = [
        {"arm": "bytes", "scale": "s0", "learning_rate": rate, "seed": 1000, "training_flops": 1e12, "bits_per_byte": bits}
        for rate, bits in ((0.002, 2.9), (0.004, 2.8), (0.008, None))
    ]
    chosen = [{"arm": "bytes", "scale": "s0", "learning_rate": 0.004, "reason": "searched"}]
    value = ladder.model_dump(mode="json") | {"searched": tried, "chosen": chosen}
    (repository / kept.KEPT / "ladder.json").write_text(json.dumps(value))
    assert rows_of(block(repository, "ladder rates")) == [["s0", "`bytes`", "2.900", "2.800", "failed", "0.004", "searched"]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!-- table: ladder main -->\n", r"README\.md:1 .*has no end; put the line <!-- end -->"),
        ("<!-- table: ladder main -->\n<!-- table: ladder gaps -->\n<!-- end -->\n", r"README\.md:1 .*has no end"),
        ("<!--table: ladder main -->\n<!-- end -->\n", r"README\.md:1: '<!--table: ladder main -->' begins or ends no table"),
        ("<!-- table:ladder main -->\n", r"README\.md:1: .*begins or ends no table"),
        ("text\n  <!-- table: ladder main -->\n", r"README\.md:2: .*begins or ends no table"),
        ("\n<!-- end -->\n", r"README\.md:2: .*begins or ends no table"),
        ("<!-- table: ladder -->\n<!-- end -->\n", r"README\.md:1: .*is no mark; write"),
        (
            "\n<!-- table: ladder mean -->\n<!-- end -->\n",
            r"README\.md:2 .*'mean' is no kind of table; known: main, .*answers, plot, facts, transfer",
        ),
        ("<!-- table: lader main -->\n<!-- end -->\n", r"neither .*lader\.json nor .*lader\.yaml is there; kept results: ladder"),
        ("<!-- table: ladder main scale=s7 -->\n<!-- end -->\n", r"scale 's7' is not in this comparison; it has: s0, s1"),
        ("<!-- table: ladder main size=s0 -->\n<!-- end -->\n", r"option 'size' is none of this table; it has: scale, budget, arms"),
        ("<!-- table: ladder ranking first=0 -->\n<!-- end -->\n", r"first '0' is no number of rows"),
        ("<!-- table: ladder answers scale=s0 -->\n<!-- end -->\n", r"this kind has no options"),
        ("<!-- table: ladder rates -->\n<!-- end -->\n", r"searched no learning rates"),
        ("<!-- table: ladder facts -->\n<!-- end -->\n", r"looks at all kept results; write <!-- table: all facts -->"),
    ],
)
def test_a_wrong_mark_is_refused_with_its_place_and_nothing_is_written(repository, text, sentence):
    (repository / "README.md").write_text(text)
    with pytest.raises(RequestError, match=sentence):
        tables.in_step(repository, write=True)
    assert (repository / "README.md").read_text() == text


def test_a_plan_without_kept_results_is_told_as_not_run(repository):
    (repository / "configs" / "compare" / "gpu.yaml").write_text("name: gpu\n")
    assert "Not run, or its results are not kept: `proxy-lm-eval compare configs/compare/gpu.yaml`" in " ".join(
        block(repository, "gpu main")
    )


def test_what_is_kept_has_every_digit_that_numbers_are_made_of_and_nothing_of_the_machine(tmp_path, ladder):
    long = {"samples": {"prompts": [{"prompt": "x" * 5000, "completions": ["/usr/bin/env"] * 50}] * 9}}
    arms = [arm.model_copy(update={"evaluations": long}) if arm.name == "bytes" else arm for arm in ladder.arms]
    folder = tmp_path / "run"
    folder.mkdir()
    results.save(ladder.model_copy(update={"arms": arms}), folder)
    path = kept.keep(folder, tmp_path / "kept")
    assert path.name == "ladder.json"
    found = kept.read_all(tmp_path / "kept")["ladder"]
    assert [arm.nll_nats_by_project for arm in found.arms] == [arm.nll_nats_by_project for arm in ladder.arms]
    assert found.projects == ladder.projects
    text = path.read_text()
    assert "somebody" not in text
    assert "Traceback" not in text
    assert next(arm.failure for arm in found.arms if arm.failure) == "exit code 1 in run; last lines:"
    samples = found.arms[0].evaluations["samples"]["prompts"]
    assert (len(samples), len(samples[0]["prompt"]), samples[0]["completions"]) == (6, 600, ["/usr/bin/env"] * 6)
    # One line a run, so that a change of one run is a change of one line.
    assert sum(line.startswith('{"name": "') for line in text.splitlines()) == len(ladder.arms)
    assert kept.keep(folder, tmp_path / "kept").read_text() == text


def test_nothing_is_kept_of_a_comparison_without_a_score(tmp_path, ladder):
    results.save(ladder.model_copy(update={"arms": [arm for arm in ladder.arms if arm.status == "failed"]}), tmp_path)
    with pytest.raises(RequestError, match=r"no arm of .* has a score"):
        kept.keep(tmp_path, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_kept_file_under_another_name_is_refused(repository):
    (repository / kept.KEPT / "ladder.json").rename(repository / kept.KEPT / "other.json")
    with pytest.raises(RequestError, match=r"other\.json holds comparison 'ladder'; name the file ladder\.json"):
        tables.in_step(repository, write=True)


def test_stability_is_measured_of_the_view_and_corpus_of_the_comparison(tmp_path, tiny_run, ladder, capsys):
    from compressors import registry

    fingerprint = registry.read_artifact(tiny_run.folder / "gzip")["fingerprint"]
    views = {"gzip": ladder.views["gzip"] | {"fingerprint": fingerprint}, "spm": ladder.views["spm"]}
    found = ladder.model_copy(update={"views": views, "corpus": ladder.corpus | {"digest": tiny_run.corpus.digest}})
    folder = tmp_path / "run"
    (folder / ladder.arms[0].folder).mkdir(parents=True)
    (folder / ladder.arms[0].folder / "config.yaml").write_text(f"corpus: {tiny_run.corpus.path}\n")
    (folder / "views").mkdir(parents=True)
    (folder / "views" / "gzip").symlink_to(tiny_run.folder / "gzip")
    results.save(found, folder)
    kept.keep(folder, tmp_path / "kept")
    told = kept.read_all(tmp_path / "kept")["ladder"].views
    moved = told["gzip"][kept.STABILITY]
    assert (moved["share"], moved["split"], moved["num_documents"]) == (0.1, "test", 4)
    assert moved["mean"] > 0.5  # gzip: nearly nothing of the symbols stays
    assert kept.STABILITY not in told["spm"]
    assert "view spm: kept without its stability under deletion" in capsys.readouterr().err
    # Kept again where the view is gone: what was measured of the same view stays.
    (folder / "views" / "gzip").unlink()
    kept.keep(folder, tmp_path / "kept")
    assert kept.read_all(tmp_path / "kept")["ladder"].views["gzip"][kept.STABILITY] == moved


def test_the_command(repository, capsys):
    assert main(["tables", "--root", str(repository), "--check"]) == 1
    assert "out of step" in capsys.readouterr().err
    assert main(["tables", "--root", str(repository), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == ["README.md:3 (table: ladder main)"]
    assert main(["tables", "--root", str(repository)]) == 0
    assert capsys.readouterr().out == "every table is in step with the kept results\n"
    assert main(["tables", "--root", str(repository), "--check"]) == 0
    assert main(["tables", "--root", str(repository / "configs")]) == 2
    assert main(["tables", "--root", str(repository), "--check", "--keep", "runs/x"]) == 2
    assert "--check writes nothing" in capsys.readouterr().err


def test_a_prolonged_multiplier_is_marked_with_the_compressor_too(repository, comparison):
    """Half the lowest loss that bytes was seen at lies beyond its compute, whoever is charged for the view."""
    arms = {"bytes": lambda _scale, budget: 2.5 if budget == "x1" else 2.3, "proxy": lambda _scale, budget: 2.4 if budget == "x1" else 2.25}
    found = comparison("far", arms, budgets={"x1": 1e13, "x4": 4e13}, views={"proxy": "spm"})
    (repository / kept.KEPT / "far.json").write_text(kept.spelled(found))
    rows = {row[0]: row for row in rows_of(block(repository, "far multipliers"))}
    inside, beyond = rows["x1"], rows["x4"]
    assert [cell[-1] for cell in inside[2:4]] == [")", ")"]
    assert [cell[-1] for cell in beyond[2:4]] == ["*", "*"]
