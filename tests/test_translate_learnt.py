"""A model that is taught pairs for a few seconds translates what it never saw, and both commands say so; its untrained weights do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import compressors.registry as registry
from eval import cli
from eval.two_views import TwoViews
from proxy_lm.data.corpus import build_small
from proxy_lm.model.decoder import Decoder
from proxy_lm.vocabulary import BOS, EOS, RAW_END, RAW_START

NUM_BYTES = 16
LETTERS = range(97, 105)
PAIRS_AT_ONCE = 32
NUM_STEPS = 160


def drawn(generator, count):
    """Documents of 16 letters, each of 8 as likely: nothing but the other telling can tell what comes."""
    return generator.integers(LETTERS.start, LETTERS.stop, (count, NUM_BYTES))


def taught(loaded):
    """The run's model after some steps on pairs, each with either telling first."""
    view, settings = loaded.vocabulary.views[0], loaded.settings
    model = Decoder(settings.model, loaded.vocabulary.size, settings.row_length, num_views=1, seed=settings.seed)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(NUM_STEPS):
        data = drawn(generator, PAIRS_AT_ONCE)
        signs = {name: np.full((PAIRS_AT_ONCE, 1), one) for name, one in (("bos", BOS), ("eos", EOS))}
        raw = np.pad(data, ((0, 0), (1, 1)), constant_values=((0, 0), (RAW_START, RAW_END)))
        told = np.pad(data + view.first_id, ((0, 0), (1, 1)), constant_values=((0, 0), (view.start_id, view.end_id)))
        raw_first = generator.random((PAIRS_AT_ONCE, 1)) < 0.5
        ids = np.hstack([signs["bos"], np.where(raw_first, np.hstack([raw, told]), np.hstack([told, raw])), signs["eos"]])
        positions = torch.arange(ids.shape[1], dtype=torch.int32).expand(*ids.shape)
        optimizer.zero_grad()
        model(torch.from_numpy(ids), torch.zeros_like(positions), positions, torch.zeros(ids.shape, dtype=torch.uint8)).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory, saved_run):
    """A run of the identity view over 40 documents that training never saw, its model taught."""
    folder = tmp_path_factory.mktemp("learnt")
    test = [row.astype(np.uint8).tobytes() for row in drawn(np.random.default_rng(7), 40)]
    corpus = build_small(folder / "corpus", {"train": [b"a" * NUM_BYTES], "valid": [b"b"], "test": test})
    registry.save(registry.train("identity", []), folder / "identity")
    views = {"identity": (folder / "identity", 256)}
    sizes = {"width": 64, "num_heads": 4, "num_kv_heads": 4, "hidden": 128, "init_std": None}
    saved_run(folder / "run", views, corpus, mix={"pair": 1.0}, row_length=64, **sizes)
    models: list[Decoder] = []

    def model(two):
        if not models:
            models.append(taught(two.opened.loaded))
        return models[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TwoViews, "model", property(model))
        yield folder / "run"


def test_a_taught_model_translates_and_an_untrained_one_does_not(run, capsys):
    assert cli.main(["translate", str(run), "--num-free", "40", "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_stretches"], result["num_bytes"]) == (40, 40 * NUM_BYTES)
    assert result["pairs_told"] == {"mean_share": 1.0, "share_at_end": 1.0, "share_that_fit_a_row": 1.0}
    bits, untrained = result["bits_per_byte"], result["untrained"]["bits_per_byte"]
    for side in ("raw", "view"):
        assert bits[side]["value"] > 3  # log2(8) is all there is to know
        assert bits[f"{side}_change"]["interval"][1] < -2
        assert bits[f"{side}_change_beside_stranger"]["interval"][1] < -2
        assert abs(untrained[f"{side}_change_beside_stranger"]["value"]) < 0.5
    for way in ("view_to_raw", "raw_to_view"):
        assert result[way]["teacher_forced"]["accuracy"]["value"] > 0.95
        assert result[way]["teacher_forced"]["accuracy_without"]["value"] < 0.3
        assert result[way]["free"]["exact_match"]["value"] == result[way]["teacher_forced"]["exact_match"]["value"] > 0.5
        assert result[way]["free"]["byte_accuracy"]["value"] > 0.9


def test_its_views_meet_where_the_untrained_weights_do_not(run, capsys):
    assert cli.main(["align", str(run), "--span-bytes", "8", "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_spans"] == 80
    taught_layers, untrained = result["layers"], result["untrained"]
    for layer in (2, 3):  # the last block and what the heads read
        assert taught_layers[layer]["cka"] > 0.8 > 0.6 > untrained[layer]["cka"]
    last, before = (layers[3]["rotated"]["retrieval"]["raw_to_view"]["value"] for layers in (taught_layers, untrained))
    assert last > before > result["chance"]
