"""A packed run with fill-in-the-middle trains, and its dry run and `run.json` say how many documents are split and how much is padding."""

from __future__ import annotations

import json
import math

from proxy_lm.config import validate
from proxy_lm.train.dry_run import dry_run, show
from proxy_lm.train.settings import RunSettings

CHANGES = {
    "packing": "fit",
    "mix": {"rate": 0.4, "pair": 0.2, "fim": {"rate": 0.8, "line_share": 0.5}},
    "loader": {"workers": 2, "prefetch_steps": 3},
    "row_length": 256,
    "num_steps": 6,
}


def test_a_packed_run_trains_and_says_what_it_packed(tiny_run):
    plain = tiny_run.settings("packed", **CHANGES)
    report = dry_run(validate(RunSettings, plain, "the test"), world_size=1)
    plan = report["plan"]
    assert plan["packing"] == "fit"
    assert plan["num_padding"] > 0
    assert plan["layouts"]["fim_psm"] + plan["layouts"]["fim_spm"] > 0
    said = f"rows         fit: {plan['split_share']:.2%} of the documents split, {plan['padding_share']:.2%} of the ids padding"
    assert said in show(report).splitlines()
    tiny_run.train(tiny_run.write(plain))
    folder = tiny_run.folder / "runs" / "packed"
    record = json.loads((folder / "run.json").read_text())
    measures = ("packing", "num_split_documents", "split_share", "num_padding", "padding_share")
    assert record["packing"] == {name: plan[name] for name in measures}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(math.isfinite(line["loss_nats"]) for line in lines)
    # What was told, as the ranks counted it step by step, is what was planned.
    assert sum(record["documents_by_view"].values()) == sum(view["num_documents"] for view in plan["views"].values())
    assert sum(record["source_bytes_by_view"].values()) == plan["source_bytes"]
