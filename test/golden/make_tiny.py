"""Makes the tiny random Mixtral checkpoints below test/golden, one a file format and variant, with what Hugging Face transformers says
of short texts. How near a family's numbers are, in long texts too, is measured by those of make_families.py.

Run:  python3 -m venv v && v/bin/pip install torch transformers tokenizers safetensors gguf accelerate && v/bin/python test/golden/make_tiny.py
Each golden.json names the versions that made it: install those to get the same bytes.
Everything is seeded; attention is eager, all arithmetic f32 (half checkpoints are widened first, as our readers do).
Seeds are searched until routing and greedy decoding are free of near-ties, so that rounding cannot flip a choice.
"""

import base64
import hashlib
import json
import shutil
from pathlib import Path

import gguf
import numpy
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.models.mixtral.modeling_mixtral import MixtralRotaryEmbedding

HERE = Path(__file__).parent
MAGIC, VERSION = "enodia-golden", 1
ROUTE_GAP, TOP_GAP, GREEDY_TOKENS = 5e-3, 5e-3, 16
VOCAB = 320
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The router sends every token to two experts, and the experts answer with a row of numbers.",
    "A worker that no longer hosts an expert says so, and the caller asks another one.",
    "def add(left, right):\n    return left + right\n",
    "Whisk the eggs with the sugar, then fold in the flour and bake for 25 minutes.",
    "The party of the first part shall notify the other party in writing within 30 days.",
]
PROMPTS = ["The experts", "return left + 12", "Whisk the eggs, then notify the other party: ja, né? 🙂 ok"]
TEXTS = [
    "", " ", "\n\n\t", "Hello, world!", "It's   three  spaces", "1234567890", "naïve café – œuvre", "日本語と中文", "👩‍👩‍👧‍👦 family 🙂",
    "a\u0301 combining", "<|im_start|>user\nhi<|im_end|>", "tabs\tand\r\nCRLF", "don't we'll I'm they've", "\u0000null\u200bzero", "x" * 70,
]
CHATS = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}, {"role": "user", "content": "ok 🙂"}],
]
BASE = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=2, pad_token_id=0,
    attn_implementation="eager",
)
VARIANTS = {
    "tiny-f32": dict(dtype=torch.float32, shard="1GB", config=dict(sliding_window=None, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "tiny-bf16": dict(dtype=torch.bfloat16, shard="250KB", config=dict(sliding_window=12, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    "tiny-f16": dict(dtype=torch.float16, shard="1GB", config=dict(sliding_window=None, tie_word_embeddings=True, num_key_value_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 100000.0})),
}


def b64(tensor):
    return base64.b64encode(tensor.detach().to(torch.float32).contiguous().numpy().tobytes()).decode()


def make_tokenizer():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    assert tok.get_vocab_size() == VOCAB
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False)
    fast.chat_template = TEMPLATE
    return fast


def make_model(spec, seed):
    torch.manual_seed(seed)
    model = MixtralForCausalLM(MixtralConfig(**{**BASE, **spec["config"]})).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "embed" in name:
                p.copy_(torch.randn_like(p) * (0.35 if spec["config"].get("tie_word_embeddings") else 1.0))
            elif "gate.weight" in name:
                p.copy_(torch.randn_like(p) * 0.35)
            else:
                p.copy_(torch.randn_like(p) * (1.6 / p.shape[-1] ** 0.5))
        # Parameters one by one: model.to(dtype) would round the rotary frequencies too, which whoever loads the file does not.
        for p in model.parameters():
            p.copy_(p.to(spec["dtype"]).to(torch.float32))
    return model


def route_gap(model, ids):
    out = model(torch.tensor([ids]), output_router_logits=True)
    gaps = [(t.sort(dim=-1, descending=True).values[:, :3].diff(dim=-1).abs().min().item()) for t in out.router_logits]
    return out, min(gaps)


def run(model, fast):
    """Cases, or None when a choice is too close for comfort."""
    cases = []
    for text in PROMPTS:
        ids = fast.encode(text, add_special_tokens=False)
        out, gap = route_gap(model, ids)
        if gap < ROUTE_GAP:
            return None
        sequence, margins = list(ids), []
        for _ in range(GREEDY_TOKENS):
            step, gap = route_gap(model, sequence)
            top = step.logits[0, -1].topk(2)
            margins.append((top.values[0] - top.values[1]).item())
            if gap < ROUTE_GAP or margins[-1] < TOP_GAP:
                return None
            sequence.append(top.indices[0].item())
        routes = [t.topk(2, dim=-1).indices.tolist() for t in out.router_logits]
        cases.append(dict(text=text, ids=ids, logits=b64(out.logits[0]), routes=routes, greedy=sequence[len(ids):], minMargin=min(margins)))
    return cases


def save(name, spec, seed, model, cases, fast):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(spec["dtype"]).save_pretrained(folder, max_shard_size=spec["shard"])
    fast.save_pretrained(folder)
    header = dict(magic=MAGIC, version=VERSION, remake="python3 test/golden/make_tiny.py", seed=seed, torch=torch.__version__, transformers=transformers.__version__)
    (folder / "golden.json").write_text(json.dumps({**header, "vocab": VOCAB, "cases": cases}) + "\n")


def rope_golden():
    """Inverse frequencies of head sizes and bases, as bits of f32."""
    tables = []
    for size in (16, 18, 64, 80, 96, 128):
        for base in (1e4, 1e5, 5e5, 1e6):
            config = MixtralConfig(head_dim=size, rope_parameters={"rope_type": "default", "rope_theta": base})
            tables.append(dict(headDim=size, base=base, bits=MixtralRotaryEmbedding(config).inv_freq.numpy().view(numpy.uint32).tolist()))
    header = dict(magic=MAGIC, version=VERSION, remake="python3 test/golden/make_tiny.py", torch=torch.__version__, transformers=transformers.__version__)
    (HERE / "rope.json").write_text(json.dumps({**header, "tables": tables}) + "\n")


def interleave(weight, heads):
    """Hugging Face's rotate-half row order to GGUF llama's interleaved one."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def llama_gguf(fast):
    """A tiny dense Llama as GGUF, mixed block formats; transformers' own GGUF reader says what it means."""
    rng = numpy.random.default_rng(4)
    hidden, ffn, heads, kv, layers, q = 64, 96, 4, 2, 2, gguf.GGMLQuantizationType
    folder = HERE / "tiny-gguf"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    w = gguf.GGUFWriter(folder / "tiny-llama.gguf", "llama")
    w.add_context_length(512), w.add_embedding_length(hidden), w.add_block_count(layers), w.add_feed_forward_length(ffn)
    w.add_head_count(heads), w.add_head_count_kv(kv), w.add_rope_freq_base(10000.0), w.add_layer_norm_rms_eps(1e-5), w.add_vocab_size(VOCAB)
    w.add_rope_dimension_count(hidden // heads)
    vocab = json.loads(fast.backend_tokenizer.to_str())["model"]
    tokens = sorted(vocab["vocab"], key=vocab["vocab"].get)
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("smollm"), w.add_token_list(tokens)
    w.add_token_types([3 if t in SPECIAL else 1 for t in tokens])
    w.add_token_merges([" ".join(m) for m in vocab["merges"]])
    w.add_bos_token_id(0), w.add_eos_token_id(2), w.add_pad_token_id(0), w.add_chat_template(TEMPLATE)

    def put(name, rows, columns, kind, heads=None):
        data = (rng.standard_normal((rows, columns)) * (1.0 if name == "token_embd" else 1.6 / columns**0.5)).astype(numpy.float32)
        data = interleave(data, heads) if heads else data
        w.add_tensor(f"{name}.weight", data.astype(numpy.float16) if kind == q.F16 else data if kind == q.F32 else gguf.quants.quantize(data, kind), raw_dtype=None if kind in (q.F16, q.F32) else kind)

    put("token_embd", VOCAB, hidden, q.Q8_0)
    w.add_tensor("output_norm.weight", (1 + 0.2 * rng.standard_normal(hidden)).astype(numpy.float32))
    for i in range(layers):
        kd = hidden // heads * kv
        for norm in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{i}.{norm}.weight", (1 + 0.2 * rng.standard_normal(hidden)).astype(numpy.float32))
        put(f"blk.{i}.attn_q", hidden, hidden, q.Q4_1, heads), put(f"blk.{i}.attn_k", kd, hidden, q.Q4_0, kv), put(f"blk.{i}.attn_v", kd, hidden, q.F16)
        put(f"blk.{i}.attn_output", hidden, hidden, q.Q4_1), put(f"blk.{i}.ffn_gate", ffn, hidden, q.Q4_1)
        put(f"blk.{i}.ffn_up", ffn, hidden, q.Q8_0), put(f"blk.{i}.ffn_down", hidden, ffn, q.Q4_1)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny-llama.gguf", dtype=torch.float32, attn_implementation="eager").eval()
    hashes = {n: hashlib.sha256(p.detach().numpy().tobytes()).hexdigest() for n, p in model.named_parameters()}
    cases = [dict(text=t, ids=fast.encode(t), logits=b64(model(torch.tensor([fast.encode(t)])).logits[0])) for t in PROMPTS]
    header = dict(magic=MAGIC, version=VERSION, remake="python3 test/golden/make_tiny.py", transformers=transformers.__version__)
    (folder / "golden.json").write_text(json.dumps({**header, "vocab": VOCAB, "tensors": hashes, "cases": cases}) + "\n")


def tokenizer_golden(fast):
    texts = [dict(text=t, ids=fast.encode(t, add_special_tokens=False), decoded=fast.decode(fast.encode(t, add_special_tokens=False))) for t in TEXTS + CORPUS + PROMPTS]
    chats = [dict(messages=c, prompt=fast.apply_chat_template(c, tokenize=False, add_generation_prompt=True)) for c in CHATS]
    header = dict(magic=MAGIC, version=VERSION, remake="python3 test/golden/make_tiny.py", tokenizers=tokenizers.__version__, folder="tiny-f32")
    (HERE / "tokenizer.json").write_text(json.dumps({**header, "texts": texts, "chats": chats}, ensure_ascii=True, indent=1) + "\n")


def main():
    fast = make_tokenizer()
    with torch.no_grad():
        for name, spec in VARIANTS.items():
            for seed in range(1, 2000):
                model = make_model(spec, seed)
                cases = run(model, fast)
                if cases:
                    save(name, spec, seed, model, cases, fast)
                    print(name, "seed", seed, "greedy", [fast.decode(c["greedy"]) for c in cases])
                    break
            else:
                raise SystemExit(f"{name}: no tie-free seed")
        llama_gguf(fast)
    tokenizer_golden(fast)
    rope_golden()


if __name__ == "__main__":
    main()
