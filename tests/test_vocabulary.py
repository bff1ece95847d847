"""Ids are what the design says, and nothing is typed by hand."""

import pytest

from proxy_lm import vocabulary
from proxy_lm.errors import RequestError
from proxy_lm.vocabulary import Vocabulary


def test_bytes_then_specials_then_views():
    vocab = Vocabulary([("spm", 1000), ("gzip", 256)])
    assert (vocabulary.PAD, vocabulary.BOS, vocabulary.EOS, vocabulary.RAW_START, vocabulary.RAW_END) == (256, 257, 258, 259, 260)
    spm, gzip = vocab.views
    assert (spm.first_id, spm.start_id, spm.end_id, spm.code) == (320, 261, 262, 1)
    assert (gzip.first_id, gzip.start_id, gzip.end_id, gzip.code) == (1320, 263, 264, 2)
    assert vocab.num_ids == 1576
    assert vocab.size == 1600  # rounded up to a multiple of 64


def test_raw_only_vocabulary_is_what_is_exported():
    assert Vocabulary().size == vocabulary.RAW_VOCABULARY_SIZE == 320


def test_special_names_are_unique_and_known():
    assert len(set(vocabulary.SPECIAL_NAMES)) == 64
    assert vocabulary.special_id("<|fim_prefix|>") == 256 + 5 + 32
    with pytest.raises(RequestError, match="unknown special '<s>'"):
        vocabulary.special_id("<s>")


@pytest.mark.parametrize("views", [[("a", 1), ("a", 2)], [("a", 0)], [(str(k), 2) for k in range(17)]])
def test_impossible_views_are_refused(views):
    with pytest.raises(RequestError):
        Vocabulary(views)
