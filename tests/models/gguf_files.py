"""Small GGUF files, written with the gguf library from a folder of a random Llama, and what is in
them by the slow way: its own ``dequantize``, tensor by tensor, into a plain LlamaForCausalLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.weight"
    _, _, block, part = stem.split(".", 3)
    return f"blk.{block}.{NAMES[part]}.weight"


def turned(rows, heads: int, back: bool = False):
    """The rows of a query or key matrix in llama.cpp's order: the rotary halves interleaved."""
    half = rows.shape[0] // heads // 2
    shape = (heads, half, 2) if back else (heads, 2, half)
    return rows.reshape(*shape, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def heads_of(config, name: str) -> int:
    if name.endswith("q_proj.weight"):
        return config.num_attention_heads
    return config.num_key_value_heads if name.endswith("k_proj.weight") else 0


def write_gguf(folder: Path, file: Path, kind: str = "Q8_0", pre: str = "smollm", **said) -> Path:
    """``said``: ``add_bos`` and ``extra`` (names of further tensors)."""
    import gguf
    from gguf.quants import quantize
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer, config = AutoTokenizer.from_pretrained(folder), model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    pieces = tokenizer.convert_ids_to_tokens(list(range(config.vocab_size)))
    merges = [("\u0120", letter) for letter in "ABCD"] + [("t", "h"), ("th", "e"), ("e", "r")]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_types([3 if i in tokenizer.all_special_ids else 1 for i in range(len(pieces))])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHAT)
    if "add_bos" in said:
        writer.add_add_bos_token(said["add_bos"])
    for name, weight in model.state_dict().items():
        rows = weight.float().numpy()
        if n := heads_of(config, name):
            rows = turned(rows, n)
        if rows.ndim == 1:
            writer.add_tensor(gguf_name(name), rows)
        else:
            as_kind = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(gguf_name(name), quantize(rows, as_kind), raw_dtype=as_kind)
    for name in said.get("extra", ()):
        writer.add_tensor(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


CHAT = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ' ' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)


def slowly(file: Path, config):
    """The model of a GGUF file, each tensor by the gguf library's own ``dequantize``."""
    import gguf
    import torch
    from gguf.quants import dequantize
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(config)
    there = {t.name: dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file).tensors}
    for name, parameter in model.named_parameters():
        rows = there[gguf_name(name)].astype(np.float32)
        if n := heads_of(config, name):
            rows = turned(rows, n, back=True)
        parameter.data = torch.from_numpy(rows.copy())
    return model.eval()
