"""The model card: what the weights are, how they are used, what was measured. From the run's own records; no path of this machine."""

from __future__ import annotations

from typing import Any

from proxy_lm.data.mixing import MixSettings
from proxy_lm.export.source import Source

_HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- byte-level
- llama
---

# {name}

A language model that reads and writes bytes. Ids 0 to 255 are the bytes of the UTF-8 text; {num_specials} specials follow. It has the shape
of `LlamaForCausalLM`, so programs that load that class load it, without remote code.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = tokenizer("def add(a, b):\\n", return_tensors="pt", return_token_type_ids=False)
written = model.generate(**prompt, max_new_tokens=40)[0, prompt.input_ids.shape[1] :]
print(bytes(number for number in written.tolist() if number < 256).decode(errors="replace"))
```

* The tokenizer puts `<|bos|>` and `<|raw|>` in front, as every document of the training began. One id is one byte.
* Text that looks like a special (`<|eos|>`) is text. `tokenizer(text, split_special_tokens=False)` reads specials by name.
* Bytes that are not UTF-8 go in as ids: `[257, 259, *data]`.
* `generation_config.json` is greedy, ends at `<|/raw|>` or `<|eos|>`, and forbids the other specials.
* The rows of training had {row_length} positions; beyond that the model was never trained.
"""


def model_card(source: Source, record: dict[str, Any]) -> str:
    """README.md of an exported folder."""
    shape, settings = source.shape, source.loaded.settings
    head = _HEAD.format(name=settings.name, num_specials=64, row_length=f"{shape.row_length:,}")
    sizes = {
        "parameters": f"{source.num_parameters:,}",
        "width, depth, width of the feed-forward part": f"{shape.width}, {shape.depth}, {shape.hidden}",
        "heads, key and value heads, width of a head": f"{shape.num_heads}, {shape.num_kv_heads}, {shape.head_width}",
        "base of the rotary wavelengths": f"{shape.rope_theta:g}",
        "weights stored as": record["dtype"],
    }
    heads = settings.model.num_raw_heads + settings.model.num_symbol_heads
    left = f"\nThe run's {heads} extra output heads stay behind: `LlamaForCausalLM` has one.\n" if heads else ""
    return "\n".join(
        [
            head,
            "## Model\n",
            _table(sizes),
            left,
            "## Training\n",
            _table(_training(source)),
            "\n## Measured\n",
            _measured(source),
            "\n## Checked\n",
            _checked(record),
            "\n## Not stated\n",
            "No licence: whoever trained the model chooses it, with the licences of the training data in mind.\n",
        ]
    )


def _training(source: Source) -> dict[str, str]:
    settings, record = source.loaded.settings, source.record
    state = source.loaded.manifest["state"]
    views = ", ".join(settings.views) or "none"
    steps = f"{source.loaded.step:,}"
    if source.record.get("num_steps"):
        steps += f" of {record['num_steps']:,}"
    rows = {
        "step": steps,
        "ids a step": f"{settings.rows_per_step * settings.row_length:,}",
        "views beside raw bytes": views,
        "how documents were told": "raw" if settings.mix == MixSettings() else f"`{settings.mix.model_dump_json(exclude_defaults=True)}`",
        "seed": str(settings.seed),
        "corpus digest": f"`{state['identity']['corpus']}`",
        "weights digest": f"`{source.weights_digest}`",
    }
    if "training_flops_per_symbol" in record:
        flops = record["training_flops_per_symbol"] * source.loaded.step * settings.rows_per_step * settings.row_length
        rows["training FLOPs, from the structure"] = f"{flops:.3e}"
    if record.get("git"):
        rows["code"] = f"proxy-lm {record['versions']['proxy_lm']}, commit `{record['git']['commit']}` ({record['git']['state']})"
    if record.get("versions"):
        rows["versions"] = ", ".join(
            f"{name} {record['versions'][name]}" for name in ("python", "torch", "deepspeed") if name in record["versions"]
        )
    return rows


def _measured(source: Source) -> str:
    if not source.measured:
        return "Nothing yet for these weights. `proxy-lm-eval bpb RUN`, then export again."
    lines = ["| split | bits per byte | 95 % interval | bytes | context |", "|---|---|---|---|---|"]
    for one in source.measured:
        bounds = "one project: none" if one["interval"] is None else f"{one['interval'][0]:.4f} to {one['interval'][1]:.4f}"
        lines.append(f"| {one['split']} | {one['bits_per_byte']:.4f} | {bounds} | {one['num_bytes']:,} | {one['context_bytes']:,} bytes |")
    return "\n".join(lines) + f"\n\nOf the run's fp32 weights. Corpus `{source.measured[0]['corpus_digest']}`."


def _checked(record: dict[str, Any]) -> str:
    readers = [check for check in (record["check"], record["transformers"]) if check is not None]
    lines = [
        f"* {check['by']}: no logit differs from the run's own model by more than {check['largest_difference']:.1e}, over "
        f"{check['num_positions']:,} positions and logits up to {check['largest_logit']:.1f}, computed in float64."
        for check in readers
    ]
    if record["largest_change_by_rounding"]:
        lines.append(f"* Rounding the weights to {record['dtype']} moved a logit by up to {record['largest_change_by_rounding']:.2g}.")
    return "Read back before this folder got its name.\n\n" + "\n".join(lines)


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
