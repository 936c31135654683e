"""Losses of a training run in f64, by torch's autograd and its own AdamW: what runtime/train/loop/golden.test.ts is held against.

usage: python make_training.py > training/golden.json     (torch 2.15, numpy)
       python make_training.py 0.1 > training/golden-switch.json     the same with the loss of Switch Transformers at this rate

The model is tiny-f32 beside this file; tokens and their order are computed here again by the rules of runtime/kernels/random.ts and
runtime/train/data/batch.ts.
"""
import json
import math
import pathlib
import struct
import sys

import torch
import torch.nn.functional as F

here = pathlib.Path(__file__).parent
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

S = dict(tokens=8193, tokenSeed=7, seed=3, sequences=8, sequenceLength=32, microBatches=4, steps=200, rate=1e-3, warmup=10, floor=0.1,
         beta1=0.9, beta2=0.95, epsilon=1e-8, decay=0.1, clip=1.0)


def u32(x):
    return x & 0xFFFFFFFF


def uniform(seed):
    state = u32(seed)
    while True:
        state = u32(state + 0x6D2B79F5)
        t = state
        t = u32((t ^ (t >> 15)) * (t | 1))
        t ^= u32(t + u32((t ^ (t >> 7)) * (t | 61)))
        yield (t ^ (t >> 14)) / 4294967296


def mix(value, key):
    x = u32(value ^ key)
    x = u32((x ^ (x >> 16)) * 0x7FEB352D)
    x = u32((x ^ (x >> 15)) * 0x846CA68B)
    return x ^ (x >> 16)


def permuted(index, count, seed, epoch):
    half = max(1, math.ceil(math.log2(max(2, count)) / 2))
    key = mix(mix(u32(seed), 0x9E3779B9), u32(epoch))
    value = index
    while True:
        left, right = value >> half, value & ((1 << half) - 1)
        for r in range(6):
            left, right = right, left ^ (mix(right, mix(key, r + 1)) & ((1 << half) - 1))
        value = (left << half) + right
        if value < count:
            return value


def weights():
    data = (here / "tiny-f32" / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    found = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        raw = torch.frombuffer(bytearray(data[8 + length + begin:8 + length + end]), dtype=torch.float32)
        found[name] = raw.reshape(info["shape"]).double().requires_grad_(True)
    return found


C = json.loads((here / "tiny-f32" / "config.json").read_text())
W = weights()
H, KV = C["num_attention_heads"], C["num_key_value_heads"]
N = C["hidden_size"] // H
RATE = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
margins, gated = [], []


def norm(x, w):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + C["rms_norm_eps"]) * w


def turn(x):
    pairs = N // 2
    frequency = (1 / (torch.tensor(10000.0, dtype=torch.float32) ** (2 * torch.arange(pairs, dtype=torch.float32) / N)))
    angle = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.double().cos().float().double(), angle.double().sin().float().double()
    a, b = x[..., :pairs], x[..., pairs:]
    cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def forward(ids):
    x = W["model.embed_tokens.weight"][ids]
    B, T, D = x.shape
    mask = torch.triu(torch.full((T, T), float("-inf")), 1)
    for layer in range(C["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        a = norm(x, W[f"{at}.input_layernorm.weight"])
        q = turn((a @ W[f"{at}.self_attn.q_proj.weight"].T).view(B, T, H, N)).transpose(1, 2)
        k = turn((a @ W[f"{at}.self_attn.k_proj.weight"].T).view(B, T, KV, N)).transpose(1, 2).repeat_interleave(H // KV, 1)
        v = (a @ W[f"{at}.self_attn.v_proj.weight"].T).view(B, T, KV, N).transpose(1, 2).repeat_interleave(H // KV, 1)
        o = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(N) + mask, -1) @ v
        h = x + o.transpose(1, 2).reshape(B, T, D) @ W[f"{at}.self_attn.o_proj.weight"].T
        f = norm(h, W[f"{at}.post_attention_layernorm.weight"]).reshape(-1, D)
        logits = f @ W[f"{at}.block_sparse_moe.gate.weight"].T
        top, chosen = torch.topk(logits, C["num_experts_per_tok"] + 1)
        margins.append((top[:, -2] - top[:, -1]).min().item())
        chosen = chosen[:, :-1]
        gated.append((chosen, torch.softmax(logits, -1)))
        gates = torch.softmax(torch.gather(logits, 1, chosen), -1)
        y = torch.zeros_like(f)
        for expert in range(C["num_local_experts"]):
            e = f"{at}.block_sparse_moe.experts.{expert}"
            rows, place = torch.where(chosen == expert)
            z = f[rows]
            z = (F.silu(z @ W[f"{e}.w1.weight"].T) * (z @ W[f"{e}.w3.weight"].T)) @ W[f"{e}.w2.weight"].T
            y = y.index_add(0, rows, gates[rows, place, None] * z)
        x = h + y.view(B, T, D)
    return norm(x, W["model.norm.weight"]) @ W["lm_head.weight"].T


def balance():
    """Sum over layers of rate * experts * sum(f * P), f and P of the whole batch."""
    total = torch.zeros(())
    for chosen, shares in gated:
        f = torch.bincount(chosen.reshape(-1), minlength=shares.shape[1]) / chosen.numel()
        total = total + RATE * shares.shape[1] * (f * shares.mean(0)).sum()
    gated.clear()
    return total


draw = uniform(S["tokenSeed"])
stream = [0]
for _ in range(S["tokens"] - 1):
    stream.append((stream[-1] * 5 + int(next(draw) * 4)) % C["vocab_size"])
L = S["sequenceLength"]
samples = (len(stream) - 1) // L
decayed = [w for w in W.values() if w.dim() > 1]
others = [w for w in W.values() if w.dim() <= 1]
optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=S["decay"]), dict(params=others, weight_decay=0.0)],
                              lr=S["rate"], betas=(S["beta1"], S["beta2"]), eps=S["epsilon"])
losses, norms, balances = [], [], []
for step in range(1, S["steps"] + 1):
    picks = []
    for i in range(S["sequences"]):
        position = (step - 1) * S["sequences"] + i
        picks.append(permuted(position % samples, samples, S["seed"], position // samples))
    ids = torch.tensor([stream[p * L:p * L + L + 1] for p in picks])
    loss = F.cross_entropy(forward(ids[:, :-1]).reshape(-1, C["vocab_size"]), ids[:, 1:].reshape(-1))
    other = balance()
    balances.append(other.item())
    optimizer.zero_grad()
    (loss + other).backward()
    norms.append(torch.nn.utils.clip_grad_norm_(W.values(), S["clip"]).item())
    if step <= S["warmup"]:
        rate = S["rate"] * step / S["warmup"]
    else:
        progress = min(1, (step - S["warmup"] - 1) / max(1, S["steps"] - S["warmup"]))
        rate = S["rate"] * (S["floor"] + (1 - S["floor"]) * 0.5 * (1 + math.cos(math.pi * progress)))
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    losses.append(loss.item())
    print(step, loss.item(), file=sys.stderr)

golden = dict(made_by=f"make_training.py, torch {torch.__version__}", settings=S, topKMargin=min(margins), losses=losses, norms=norms)
if RATE > 0:
    golden = dict(golden, balance=f"switch:{RATE}", balances=balances)
json.dump(golden, sys.stdout, indent=0)
print()
