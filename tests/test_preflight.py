"""Preflight: what ranks must share is compared on all of them before a model exists, and told in a table."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from proxy_lm.data.corpus import build_small
from proxy_lm.errors import RequestError, WorkError
from proxy_lm.train.launch import free_port
from proxy_lm.train.preflight import MUST_AGREE, SHOULD_AGREE, judge, sample, table

GB = 10**9
NEEDS = {
    "device_state_bytes": 8 * GB,
    "device_peak_bytes": 20 * GB,
    "host_bytes_per_rank": 0,
    "building_bytes_per_rank": 2 * GB,
    "checkpoint_bytes": 4 * GB,
    "fewest_checkpoints": 3,
    "most_checkpoints": 5,
}


def fact(host: str = "a", **changes: Any) -> dict[str, Any]:
    equal = dict.fromkeys((*MUST_AGREE, *SHOULD_AGREE), "same")
    room = {"device_memory_bytes": 80 * GB, "host_memory_bytes": 100 * GB, "free_bytes": 50 * GB, "checkpoints_bytes": 0}
    return {"host": host, **equal, **room, **changes}


def judged(*facts: dict[str, Any], clocks: list[float] | None = None, shared: list[bool] | None = None, **needs: Any):
    return judge(facts, {**NEEDS, **needs}, clocks or [0.0] * len(facts), shared or [True] * len(facts))


def test_equal_ranks_with_room_pass_in_silence():
    assert judged(fact(), fact(), fact("b"), fact("b")) == ([], [])


def test_the_table_has_a_line_a_value_with_its_ranks_and_hosts():
    facts = [fact(torch="2.13.0"), fact(torch="2.13.0"), fact("b", torch="2.12.1"), fact("b", torch="2.13.0", numpy="2.4.0")]
    assert table(facts, ["torch", "numpy"]).splitlines() == [
        "what   value   ranks   hosts",
        "torch  2.13.0  0-1, 3  a, b",
        "       2.12.1  2       b",
        "numpy  same    0-2     a, b",
        "       2.4.0   3       b",
    ]


@pytest.mark.parametrize("name", MUST_AGREE)
def test_what_must_agree_ends_the_run_with_every_value_and_its_ranks(name):
    refusals, warnings = judged(fact(), fact(), fact("b", **{name: "other"}))
    assert [type(refusal) for refusal in refusals] == [RequestError]
    assert f"{name}: same on rank 0-1, other on rank 2" in str(refusals[0])
    assert warnings == []


@pytest.mark.parametrize("name", SHOULD_AGREE)
def test_what_should_agree_is_told_and_does_not_end_the_run(name):
    refusals, warnings = judged(fact(), fact(**{name: "other"}))
    assert refusals == []
    assert warnings == [f"the ranks differ in {name}: same on rank 0, other on rank 1"]


def test_a_rank_that_did_not_look_differs_from_nobody():
    assert judged(fact(), fact(**{"sampled bytes": None})) == ([], [])


def test_a_folder_that_a_rank_cannot_see_ends_the_run():
    refusals, _ = judged(fact(), fact(), fact("b"), fact("b"), shared=[True, True, False, False])
    assert "rank 2-3 cannot see" in str(refusals[0])


def test_clocks_that_differ_are_told():
    assert judged(fact(), fact(), clocks=[0.0, 1.9]) == ([], [])
    assert "clocks differ by 3.0 s (rank 1 is last)" in judged(fact(), fact(), clocks=[0.0, -3.0])[1][0]


def test_room_on_the_disk_is_for_what_is_sure_to_come_and_counts_what_the_run_has_there():
    refusals, _ = judged(fact(free_bytes=11 * GB))  # three checkpoints of 4 GB are sure to come
    assert isinstance(refusals[0], WorkError)
    assert "no space for 3 checkpoints" in str(refusals[0])
    assert "free 1.00 GB" in str(refusals[0])
    assert judged(fact(free_bytes=11 * GB, checkpoints_bytes=9 * GB)) == ([], [])
    refusals, warnings = judged(fact(free_bytes=12 * GB))
    assert refusals == []
    assert "hold 3 checkpoints of about 4.00 GB and up to 5 are kept" in warnings[0]


def test_a_device_too_small_for_the_state_ends_the_run_and_one_too_small_for_the_step_is_told():
    refusals, _ = judged(fact(), fact(device_memory_bytes=7 * GB))
    assert "rank 1 has 7.00 GB" in str(refusals[0])
    refusals, warnings = judged(fact(device_memory_bytes=19 * GB))
    assert refusals == []
    assert "expected to take 20.00 GB and rank 0 has 19.00 GB" in warnings[0]


def test_ranks_on_processors_share_their_hosts_memory():
    cpu = [fact(device_memory_bytes=None, host_memory_bytes=39 * GB) for _ in range(2)]
    assert "rank 0-1 are expected to take 40.00 GB" in judged(*cpu)[1][0]
    assert judged(cpu[0]) == ([], [])
    # Every rank draws the whole model before it is sharded, on a GPU machine too.
    assert "160.00 GB" in judged(*[fact() for _ in range(2)], building_bytes_per_rank=80 * GB)[1][0]


def test_the_sample_of_a_corpus_sees_its_size_its_ends_and_any_stretch_of_a_small_file(tmp_path):
    path = tmp_path / "corpus"
    corpus = build_small(path, {"train": [bytes(range(256)) * 40], "valid": [b"v"], "test": []})
    before, data = sample(corpus, []), (path / "raw.bin").read_bytes()
    assert sample(corpus, []) == before
    for at in (0, 5000, len(data) - 1):
        (path / "raw.bin").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert sample(corpus, []) != before
    (path / "raw.bin").write_bytes(data + b"x")
    assert sample(corpus, []) != before


@pytest.mark.slow
def test_two_real_ranks_with_other_settings_and_another_corpus_leave_together_with_a_table(tiny_run):
    other = build_small(tiny_run.folder / "other-corpus", {"train": [b"other bytes " * 90, b"and more " * 80], "valid": [b"v"], "test": []})
    plain = tiny_run.settings("preflight", views={}, mix={})
    paths = []
    for rank, changes in enumerate(({}, {"corpus": str(other.path), "seed": 5})):
        path = tiny_run.folder / f"preflight-{rank}.yaml"
        path.write_text(yaml.safe_dump({**plain, **changes}))
        paths.append(path)
    slurm = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "MASTER_PORT": str(free_port()),
    }
    ranks = [tiny_run.start(paths[k], SLURM_PROCID=str(k), SLURM_LOCALID=str(k), **slurm) for k in (0, 1)]
    spoken = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], spoken
    told = spoken[0].splitlines()
    differing = [re.split(r"\s{2,}", line)[0] for line in told if re.match(r"\w.*\s{2,}[0-9a-f]{64}\s+0\s", line)]
    assert differing == ["settings", "corpus", "plan"]
    assert "setting seed: 0 -> 5 on rank 1" in told
    assert spoken[0].count("proxy_lm.train: the ranks do not run the same thing: settings") == 1
    assert "Traceback" not in "".join(spoken)
    assert spoken[1] == ""
    assert not (tiny_run.folder / "runs" / "preflight").exists()
    assert not list((tiny_run.folder / "runs").glob(".preflight*"))
