"""A byte tokenizer that other programs load without our code: ids 0..255 are the bytes of the UTF-8 text, 256..319 the specials.

    files = tokenizer_files(row_length=1024)        # {"tokenizer.json": ..., "tokenizer_config.json": ..., "special_tokens_map.json": ...}

It is a BPE without merges over the 256 characters by which byte-level tokenizers write bytes, so `tokenizers` and `transformers` read it
as they read any other. A special's name inside a text is text: `tokenizer.json` knows the names only as entries that no merge reaches, and
for `transformers`, which has to know them as specials, `split_special_tokens` is on. Encoding puts BOS and the raw sentinel in front, as in
training.

Not promised: bytes that are no UTF-8 text. A tokenizer takes and gives strings; pass such bytes as ids (an id below 256 is the byte).
"""

from __future__ import annotations

from typing import Any, Final

from proxy_lm.vocabulary import BOS, EOS, NUM_BYTES, PAD, RAW_START, SPECIAL_NAMES

# Written by hand: transformers 5 would write "TokenizersBackend", which transformers 4 and servers built on it refuse.
TOKENIZER_CLASS: Final = "PreTrainedTokenizerFast"


def byte_characters() -> list[str]:
    """The character that stands for each byte value in byte-level tokenizers (GPT-2's table): itself where it is printable and not a
    space, else the next unused code point from 256 up."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    characters, unused = [], NUM_BYTES
    for value in range(NUM_BYTES):
        if value in printable:
            characters.append(chr(value))
        else:
            characters.append(chr(unused))
            unused += 1
    return characters


def names() -> list[str]:
    """Name of every id, in order: nothing is left to be numbered by the reader."""
    return [*byte_characters(), *SPECIAL_NAMES]


def tokenizer_files(row_length: int) -> dict[str, dict[str, Any]]:
    """Contents of the three files by name, as plain JSON. `row_length`: positions that the model knows."""
    return {
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": _configuration(row_length),
        "special_tokens_map.json": {key: _name(number) for key, number in _ROLES.items()},
    }


_ROLES: Final = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}


def _name(number: int) -> str:
    return SPECIAL_NAMES[number - NUM_BYTES]


def _tokenizer() -> dict[str, Any]:
    opening = (BOS, RAW_START)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],  # a special listed here would be cut out of texts that hold its name
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*(_special(number, 0) for number in opening), _sequence("A", 0)],
            "pair": [*(_special(number, 0) for number in opening), _sequence("A", 0), _sequence("B", 1)],
            "special_tokens": {_name(number): {"id": _name(number), "ids": [number], "tokens": [_name(number)]} for number in opening},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: number for number, name in enumerate(names())},
            "merges": [],
        },
    }


def _special(number: int, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": _name(number), "type_id": kind}}


def _sequence(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}


def _configuration(row_length: int) -> dict[str, Any]:
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": TOKENIZER_CLASS,
        **{key: _name(number) for key, number in _ROLES.items()},
        "added_tokens_decoder": {str(NUM_BYTES + index): {"content": name, **flags} for index, name in enumerate(SPECIAL_NAMES)},
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": row_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
    }
