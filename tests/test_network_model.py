"""A network evaluated alone gives the decoder's own logits, whole numbers that batches and threads do not move, and refuses damage."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from compressors.errors import RequestError
from compressors.neural import network
from compressors.neural.models import TOTAL, load_model, save_model
from compressors.neural.network import NetworkModel, NetworkShape, quantise_on_device
from compressors.neural.quantise import quantise_slowly
from proxy_lm.model.decoder import Decoder
from proxy_lm.model.settings import ModelSettings
from proxy_lm.neural_training import network_of
from proxy_lm.vocabulary import BOS, RAW_START, RAW_VOCABULARY_SIZE

TEXT = b"def halve(x):\n    return x // 2  # rounds down\n"


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """Two key heads for four query heads, so that sharing them is tested too."""
    sizes = ModelSettings(preset=None, width=32, depth=2, num_heads=4, num_kv_heads=2, hidden=48)
    return Decoder(sizes, RAW_VOCABULARY_SIZE, 64, seed=3).eval()


@pytest.fixture(scope="module")
def model(decoder: Decoder) -> NetworkModel:
    return network_of(decoder, 60)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def prefixes(num: int, depth: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).integers(97, 101, (num, depth), dtype=np.uint8)


def test_logits_are_those_of_the_decoder(decoder: Decoder, model: NetworkModel) -> None:
    ids = torch.tensor([[BOS, RAW_START, *TEXT]])
    expected = decoder.logits(ids, torch.zeros_like(ids), torch.arange(ids.shape[1]).unsqueeze(0))[0, 1:-1, :256].detach().numpy()
    among_others = model.logits([b"x", TEXT, b"", TEXT[:9] * 3])
    np.testing.assert_allclose(among_others[1], expected, atol=2e-5)
    assert [len(rows) for rows in among_others] == [1, len(TEXT), 0, 27]


def test_rows_sum_to_the_total_and_have_no_zero(model: NetworkModel) -> None:
    (rows,) = model.rows([TEXT])
    assert rows.dtype == np.uint16
    assert rows.shape == (len(TEXT), 256)
    assert (rows.sum(axis=1, dtype=np.int64) == TOTAL).all()
    assert rows.min() >= 1


def test_after_a_prefix_is_the_row_that_follows_it(model: NetworkModel) -> None:
    document = (TEXT * 4)[:150]  # two and a half contexts
    (rows,) = model.on("cpu", "float64").rows([document])
    for place in (*range(12), 59, 60, 61, 89, 90, 91, 149):
        told = np.frombuffer(document[:place], np.uint8).reshape(1, -1)
        np.testing.assert_array_equal(model.after(told)[0], rows[place], err_msg=f"byte {place}")


def test_a_long_document_is_read_in_chunks_that_overlap_by_half() -> None:
    def reads(place: int) -> int:
        return place - network._chunk_start(place, 8)

    assert [reads(place) for place in range(18)] == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5]


@pytest.mark.usefixtures("one_thread")
def test_batches_and_threads_do_not_move_a_frequency(decoder: Decoder) -> None:
    wanted = [prefixes(1, 0), prefixes(4, 1), prefixes(150, 5), prefixes(80, 6, seed=1)]

    def found(batch: int, threads: int) -> bytes:
        torch.set_num_threads(threads)
        fresh = network_of(decoder, 60)
        return b"".join(fresh.after(part[at : at + batch]).tobytes() for part in wanted for at in range(0, len(part), batch))

    expected = found(2048, 1)
    assert found(3, 1) == expected
    assert found(64, 2) == expected
    assert found(1, 1) == expected


def test_forgetting_prefixes_changes_nothing(model: NetworkModel, monkeypatch: pytest.MonkeyPatch) -> None:
    some = prefixes(200, 7)
    expected = model.after(some)
    again = model.on("cpu")
    monkeypatch.setattr(network, "_MAX_KEPT_BYTES", 1)
    np.testing.assert_array_equal(again.after(some), expected)


def test_intervals_are_cut_out_of_the_rows(model: NetworkModel) -> None:
    document = TEXT * 3
    (rows,), (both,) = model.rows([document]), model.intervals([document])
    expected = [(int(row[:byte].sum(dtype=np.int64)), int(row[byte])) for row, byte in zip(rows, document, strict=True)]
    assert both.tolist() == [list(pair) for pair in expected]


def test_quantised_on_the_device_as_everywhere() -> None:
    rng = np.random.Generator(np.random.Philox(7))
    logits = rng.normal(size=(500, 256)) * rng.choice([0.01, 1.0, 6.0, 300.0], size=(500, 1))
    logits[0] = 0.0  # a tie of all bytes: what is left over goes to byte 0
    np.testing.assert_array_equal(quantise_on_device(torch.from_numpy(logits)).numpy(), quantise_slowly(logits))


def test_a_saved_model_is_the_same_model(model: NetworkModel, tmp_path) -> None:
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.spec() == model.spec()
    np.testing.assert_array_equal(again.after(prefixes(5, 3)), model.after(prefixes(5, 3)))
    assert model.on("cpu", "bfloat16").spec() != model.spec()


def test_bfloat16_is_near(model: NetworkModel) -> None:
    near = model.on("cpu", "bfloat16").rows([TEXT])[0].astype(np.int64)
    assert abs(near - model.rows([TEXT])[0]).mean() < 0.1 * TOTAL / 256


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "version 2"),
        ({"shape": {"width": 32}}, "lacks its shape"),
        ({"weights_sha256": "00"}, "another digest"),
        ({"rows": "int4"}, "unknown type of numbers 'int4'"),
    ],
)
def test_another_description_is_refused(model: NetworkModel, change: dict, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        NetworkModel.from_files({**model.spec(), **change}, model.files())


def test_hostile_weights_are_refused(model: NetworkModel) -> None:
    weights = dict(model._weights)
    with pytest.raises(RequestError, match=r"1 tensors \(first: norm\)"):
        NetworkModel(model.shape, {name: tensor for name, tensor in weights.items() if name != "norm"})
    with pytest.raises(RequestError, match="weight 'norm' is float32"):
        NetworkModel(model.shape, {**weights, "norm": np.full(32, np.nan, np.float32)})
    with pytest.raises(RequestError, match="weight 'head'"):
        NetworkModel(model.shape, {**weights, "head": np.zeros((255, 32), np.float32)})
    spec = model.spec()
    data = b"\xff" * 64
    spec["weights_sha256"] = network.sha256_bytes(data)
    with pytest.raises(RequestError, match="cannot be read"):
        NetworkModel.from_files(spec, {network.WEIGHTS_NAME: data})


def test_weights_that_overflow_are_refused_and_not_made_rows(model: NetworkModel) -> None:
    largest = {name: np.full_like(model._weights[name], 3e38) for name in ("norm", "head")}
    hostile = NetworkModel(model.shape, {**model._weights, **largest})
    with pytest.raises(RequestError, match="logits are not all finite"):
        hostile.rows([TEXT])
    with pytest.raises(RequestError, match="logits are not all finite"):
        network.quantise(np.array([[0.0] * 255 + [np.nan]]))


def test_shapes_that_do_not_fit_together_are_refused() -> None:
    good = {"width": 8, "depth": 1, "num_heads": 2, "num_kv_heads": 1, "hidden": 8, "rope_theta": 1e4, "norm_eps": 1e-6, "context_bytes": 8}
    too_long = {"context_bytes": 1 << 20}
    odd = ({"context_bytes": 7}, {"num_heads": 3}, {"depth": 0}, {"rope_theta": 1.0}, {"num_kv_heads": 2, "num_heads": 1})
    for change in (*odd, too_long):
        with pytest.raises(RequestError, match="does not fit together"):
            NetworkModel(NetworkShape(**{**good, **change}), {})


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same_rows_and_quantises_alike(model: NetworkModel) -> None:
    (near,), (here,) = model.on("cuda").rows([TEXT * 5]), model.rows([TEXT * 5])
    assert abs(near.astype(np.int64) - here).max() <= 64
    logits = torch.from_numpy(np.random.Generator(np.random.Philox(1)).normal(size=(300, 256)) * 4)
    np.testing.assert_array_equal(quantise_on_device(logits.cuda()).cpu().numpy(), quantise_slowly(logits.numpy()))
