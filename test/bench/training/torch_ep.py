"""Expert parallelism in torch: one rank of the same model on the same tokens, over gloo's all_to_all_single, as a peer of ours.

usage: GLOO_SOCKET_IFNAME=lo python torch_ep.py FOLDER RANK RANKS ADDRESS PORT     (torch, numpy; peer.ts writes FOLDER)
Each line of standard input is an order, {"workload", "from", "to"}; each answer a line, {"ms", "cpuMs", "losses"}.
Experts live where ours have their first homes; the dense part is on all ranks and its gradients are summed by one all_reduce.
"""
import datetime
import json
import math
import pathlib
import sys
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

folder, rank, ranks, address, port = sys.argv[1:]
folder, rank, ranks = pathlib.Path(folder), int(rank), int(ranks)
torch.set_num_threads(1)
C = json.loads((folder / "config.json").read_text())
S = json.loads((folder / "run.json").read_text())
E, K, D = C["num_local_experts"], C["num_experts_per_tok"], C["hidden_size"]
H, KV, L = C["num_attention_heads"], C["num_key_value_heads"], C["num_hidden_layers"]
N, T = D // H, S["sequenceLength"]
FROM, TO = S["sequencesOfRanks"][rank]
HOMES = [e * ranks // E for e in range(E)]
MINE = [e for e in range(E) if HOMES[e] == rank]
RANK_EXPERTS = [HOMES.count(r) for r in range(ranks)]

raw = np.memmap(folder / "parameters.bin", dtype=np.float32, mode="r")
W, dense, owned, optimizer = {}, [], [], None


def begin():
    """The first weights and no moments, as each of our runs begins."""
    global dense, owned, optimizer
    for name, shape, at in S["tensors"]:
        if ".experts." in name and int(name.split(".experts.")[1].split(".")[0]) not in MINE:
            continue
        W[name] = torch.from_numpy(raw[at:at + math.prod(shape)].copy()).reshape(shape).requires_grad_(True)
    dense = [w for name, w in W.items() if ".experts." not in name]
    owned = [w for name, w in W.items() if ".experts." in name]
    optimizer = torch.optim.AdamW(W.values(), lr=S["rate"], betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)


pairs = N // 2
angle = torch.arange(T, dtype=torch.float32)[:, None] / (C["rope_theta"] ** (2 * torch.arange(pairs, dtype=torch.float32) / N))
COS, SIN = angle.cos(), angle.sin()


class AllToAll(torch.autograd.Function):
    """Rows to the ranks of their experts; gradients take the way back."""

    @staticmethod
    def forward(ctx, x, sent, received):
        ctx.sent, ctx.received = sent, received
        out = x.new_empty(sum(received), x.shape[1])
        dist.all_to_all_single(out, x.contiguous(), received, sent)
        return out

    @staticmethod
    def backward(ctx, grad):
        out = grad.new_empty(sum(ctx.sent), grad.shape[1])
        dist.all_to_all_single(out, grad.contiguous(), ctx.sent, ctx.received)
        return out, None, None


def norm(x, w):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + C["rms_norm_eps"]) * w


def turn(x):
    a, b = x[..., :pairs], x[..., pairs:]
    return torch.cat([a * COS - b * SIN, b * COS + a * SIN], -1)


def experts(f, at):
    top, chosen = torch.topk(f @ W[f"{at}.gate.weight"].T, K)
    gates = torch.softmax(top, -1)
    order = torch.argsort(chosen.reshape(-1), stable=True)  # by expert, and so by rank
    counts = torch.bincount(chosen.reshape(-1), minlength=E)
    theirs = torch.empty(ranks * len(MINE), dtype=torch.int64)
    dist.all_to_all_single(theirs, counts, [len(MINE)] * ranks, RANK_EXPERTS)
    theirs = theirs.view(ranks, len(MINE))
    sent = [int(part.sum()) for part in counts.split(RANK_EXPERTS)]
    received = theirs.sum(1).tolist()
    rows = AllToAll.apply(f[order // K], sent, received)
    # Parts lie by source, then by expert: those of one expert are brought together.
    parts = rows.split(theirs.reshape(-1).tolist())
    by_expert = torch.cat([parts[source * len(MINE) + i] for i in range(len(MINE)) for source in range(ranks)])
    outputs = []
    for expert, x in zip(MINE, by_expert.split(theirs.sum(0).tolist())):
        e = f"{at}.experts.{expert}"
        outputs.append((F.silu(x @ W[f"{e}.w1.weight"].T) * (x @ W[f"{e}.w3.weight"].T)) @ W[f"{e}.w2.weight"].T)
    parts = torch.cat(outputs).split(theirs.T.reshape(-1).tolist())
    back = torch.cat([parts[i * ranks + source] for source in range(ranks) for i in range(len(MINE))])
    answers = AllToAll.apply(back, received, sent)
    weighted = answers * gates.reshape(-1)[order, None]
    return torch.zeros_like(f).index_add(0, order // K, weighted)


def loss_of(inputs, targets):
    x = W["model.embed_tokens.weight"][inputs]
    B = x.shape[0]
    for layer in range(L):
        at = f"model.layers.{layer}"
        a = norm(x, W[f"{at}.input_layernorm.weight"])
        q, k, v = ((a @ W[f"{at}.self_attn.{name}_proj.weight"].T).view(B, T, -1, N).transpose(1, 2) for name in "qkv")
        o = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True, enable_gqa=H != KV)
        h = x + o.transpose(1, 2).reshape(B, T, D) @ W[f"{at}.self_attn.o_proj.weight"].T
        f = norm(h, W[f"{at}.post_attention_layernorm.weight"]).reshape(-1, D)
        x = h + experts(f, f"{at}.block_sparse_moe").view(B, T, D)
    logits = norm(x, W["model.norm.weight"]).reshape(-1, D) @ W["lm_head.weight"].T
    return F.cross_entropy(logits, targets.reshape(-1), reduction="sum") / (S["sequences"] * T)


def step(tokens):
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(tokens[FROM:TO, 0], tokens[FROM:TO, 1])
    loss.backward()
    flat = torch.cat([w.grad.reshape(-1) for w in dense])
    dist.all_reduce(flat)
    for w, part in zip(dense, flat.split([w.numel() for w in dense])):
        w.grad.copy_(part.view_as(w))
    total = torch.stack([loss.detach(), sum((w.grad * w.grad).sum() for w in owned if w.grad is not None)])
    dist.all_reduce(total)
    scale = min(1.0, S["clip"] / (math.sqrt(float(total[1] + (flat * flat).sum())) + 1e-6))
    if scale < 1:
        for w in W.values():
            if w.grad is not None:
                w.grad.mul_(scale)
    optimizer.step()
    return float(total[0])


dist.init_process_group("gloo", init_method=f"tcp://{address}:{port}", rank=rank, world_size=ranks,
                        timeout=datetime.timedelta(minutes=10))
print(json.dumps({"torch": torch.__version__}), flush=True)
workload = None
for line in sys.stdin:
    order = json.loads(line)
    if order["workload"] != workload:
        workload = order["workload"]
        begin()
    file = np.memmap(folder / f"{order['workload']}.bin", dtype=np.int32, mode="r").reshape(-1, S["sequences"], 2, T)
    batches = [torch.from_numpy(np.array(file[i - 1])).long() for i in range(order["from"], order["to"])]
    dist.barrier()
    begun, cpu = time.perf_counter(), time.process_time()
    losses = [step(batch) for batch in batches]
    print(json.dumps({"ms": 1000 * (time.perf_counter() - begun), "cpuMs": 1000 * (time.process_time() - cpu), "losses": losses}), flush=True)
