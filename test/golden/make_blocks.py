"""Makes test/golden/ggml-blocks.json: random blocks of every ggml type that we read, the f32 values that ggml gives for them, and rows as
ggml rounds them to the types that it can round to here, and the names of tensors in GGUF.

Run:  python3 -m venv v && v/bin/pip install gguf numpy && v/bin/python test/golden/make_blocks.py
The package `gguf` is ggml's own description of its types; the file names the version that made it. Everything is seeded.
Bytes are random, since a reader has to take any; only the halves that scale a block are drawn from ordinary sizes.
"""

import base64
import json
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy

HERE = Path(__file__).parent
BLOCKS = 3
KIND = gguf.GGMLQuantizationType
# Name of our form -> ggml type and the byte offsets of f16 fields in a block.
FORMS = {
    "f16": (KIND.F16, [0]), "bf16": (KIND.BF16, []), "q8_0": (KIND.Q8_0, [0]), "q4_0": (KIND.Q4_0, [0]), "q4_1": (KIND.Q4_1, [0, 2]),
    "q5_0": (KIND.Q5_0, [0]), "q5_1": (KIND.Q5_1, [0, 2]), "iq4_nl": (KIND.IQ4_NL, [0]), "iq4_xs": (KIND.IQ4_XS, [0]), "mxfp4": (KIND.MXFP4, []),
    "q2_K": (KIND.Q2_K, [80, 82]), "q3_K": (KIND.Q3_K, [108]), "q4_K": (KIND.Q4_K, [0, 2]), "q5_K": (KIND.Q5_K, [0, 2]), "q6_K": (KIND.Q6_K, [208]),
    "iq1_s": (KIND.IQ1_S, [0]), "iq1_m": (KIND.IQ1_M, []), "iq2_xxs": (KIND.IQ2_XXS, [0]), "iq2_xs": (KIND.IQ2_XS, [0]), "iq2_s": (KIND.IQ2_S, [0]),
    "iq3_xxs": (KIND.IQ3_XXS, [0]), "iq3_s": (KIND.IQ3_S, [0]), "tq1_0": (KIND.TQ1_0, [52]), "tq2_0": (KIND.TQ2_0, [64]), "nvfp4": (KIND.NVFP4, []), "q1_0": (KIND.Q1_0, [0]),
}

# Types that the package can round to.
ROUNDED = ["f16", "bf16", "q8_0", "mxfp4"]
# Architectures and the tensors of a layer in Hugging Face's names; the package says what GGUF calls them.
ATTENTION = ["input_layernorm", "post_attention_layernorm", *(f"self_attn.{p}_proj" for p in "qkvo")]
NORMS, EXPERTS = ["self_attn.q_norm", "self_attn.k_norm"], [f"mlp.experts.{p}_proj" for p in ("gate", "up", "down")]
LAYERS = {
    "llama": (gguf.MODEL_ARCH.LLAMA, [*ATTENTION, "block_sparse_moe.gate", *(f"block_sparse_moe.experts.w{i}" for i in (1, 2, 3))]),
    "qwen3moe": (gguf.MODEL_ARCH.QWEN3MOE, [*ATTENTION, *NORMS, "mlp.gate", *EXPERTS]),
    "olmoe": (gguf.MODEL_ARCH.OLMOE, [*ATTENTION, *NORMS, "mlp.gate", *EXPERTS]),
    "gpt-oss": (gguf.MODEL_ARCH.GPT_OSS, [*ATTENTION, "mlp.router", *EXPERTS]),
    "deepseek2": (gguf.MODEL_ARCH.DEEPSEEK2, [
        *ATTENTION[:3], "self_attn.o_proj", *(f"self_attn.{p}" for p in ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj")),
        "mlp.gate", *(f"mlp.shared_experts.{p}_proj" for p in ("gate", "up", "down")), *EXPERTS]),
}


def names():
    """By architecture: Hugging Face's name -> GGUF's, of layer 1 and of what is in no layer."""
    out = {}
    for arch, (kind, parts) in LAYERS.items():
        table = gguf.get_tensor_name_map(kind, 2)
        every = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", *(f"model.layers.1.{part}.weight" for part in parts)]
        out[arch] = {name: table.get_name(name, (".weight",)) for name in every}
    return out


def signs(flat, kind):
    """The package has no reader of this type: a half, then a bit for each value, set where it is positive."""
    blocks = flat.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    scale = blocks[:, :2].copy().view(numpy.float16).astype(numpy.float32)
    return numpy.where(numpy.unpackbits(blocks[:, 2:], axis=1, bitorder="little") == 1, scale, -scale)


def main():
    random = numpy.random.default_rng(39)
    forms = {}
    for name, (kind, halves) in FORMS.items():
        values, size = gguf.GGML_QUANT_SIZES[kind]
        count = BLOCKS if values > 1 else 16
        blocks = random.integers(0, 256, (count, size), dtype=numpy.uint8)
        for at in halves:
            blocks[:, at : at + 2] = (random.standard_normal((count, 1)) * 0.02).astype(numpy.float16).view(numpy.uint8)
        if kind == KIND.MXFP4:
            blocks[:, 0] = [0, 1, 122][:count]  # the two smallest scales have an exponent of their own
        if kind == KIND.BF16:
            blocks[:, 1] = 0x3C | (blocks[:, 1] & 0x83)
        if kind == KIND.IQ1_M:  # its scale lies in the upper half of four bytes
            scale = (random.standard_normal(count) * 0.02).astype(numpy.float16).view(numpy.uint16)
            for word in range(4):
                blocks[:, 49 + 2 * word] = (blocks[:, 49 + 2 * word] & 15) | (((scale >> (4 * word)) & 15) << 4).astype(numpy.uint8)
        floats = (signs if kind == KIND.Q1_0 else gguf.quants.dequantize)(blocks.reshape(-1), kind).astype(numpy.float32)
        assert floats.size == count * values and numpy.isfinite(floats).all(), name
        forms[name] = dict(type=int(kind), values=values, bytes=size, blocks=base64.b64encode(blocks.tobytes()).decode(),
                           floats=base64.b64encode(floats.tobytes()).decode())
    rows = (random.standard_normal((4, 64)) * [[0.02], [3.0], [1e-4], [1e-6]]).astype(numpy.float32)
    rows[1, :32] = 0
    rows[1, 40:44] = [-4.5, 4.5, 0.0, -0.0]
    rounded = {name: base64.b64encode(gguf.quants.quantize(rows, FORMS[name][0]).tobytes()).decode() for name in ROUNDED}
    header = dict(magic="enodia-golden", version=1, remake="python3 test/golden/make_blocks.py", gguf=version("gguf"))
    (HERE / "ggml-blocks.json").write_text(json.dumps({**header, "forms": forms, "rows": base64.b64encode(rows.tobytes()).decode(), "rounded": rounded, "names": names()}) + "\n")


if __name__ == "__main__":
    main()
