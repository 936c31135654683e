"""Makes the tiny random checkpoints of model families below test/golden/families, with what transformers computes from them.

Run:  as make_tiny.py says, then v/bin/python test/golden/make_families.py [name ...]
A name with "long:" before it remakes only the logits of 3,000 tokens, of the checkpoint that is there.
Logits are those of a run in f64 throughout (but for the rotary frequencies, which are f32 in every run); beside them stands how far
transformers' own f32 run is from it. Tokens are drawn one by one, and drawn again where a router or the next token is near a tie.
"""

import json
import shutil
import sys

import own_families
import torch
import transformers
from make_tiny import HERE, MAGIC, VERSION, b64, make_tokenizer
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FOLDER = HERE / "families"
VOCAB, HIDDEN = 320, 32
TOKENS, GREEDY_AT, GREEDY_TOKENS = 200, 7, 50
POSITIONS = [0, 1, 2, 3, 4, 5, 6, 31, 63, 127, 199]
ROUTE_GAP, TOP_GAP = 1e-3, 5e-3
LONG_TOKENS, LONG_AT, LONG_GAP = 3000, [0, 255, 1023, 2047, 2999], 2e-3
BASE = dict(
    vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=512,
    bos_token_id=0, eos_token_id=2, pad_token_id=0, attn_implementation="eager", experts_implementation="eager",
)
FAMILIES = {
    "mixtral": dict(
        config=lambda: transformers.MixtralConfig(**{
            **BASE, "num_key_value_heads": 2, "intermediate_size": 48, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
            "num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }),
    ),
    "llama": dict(
        config=lambda: transformers.LlamaConfig(**{
            **BASE, "num_key_value_heads": 2, "intermediate_size": 48, "num_hidden_layers": 2, "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64}, "tie_word_embeddings": True,
        }),
    ),
    "qwen3": dict(
        config=lambda: transformers.Qwen3Config(**{
            **BASE, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48, "num_hidden_layers": 2, "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6},
        }),
    ),
    "qwen3-moe": dict(
        config=lambda: transformers.Qwen3MoeConfig(**{
            **BASE, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48, "moe_intermediate_size": 32, "num_experts": 8,
            "num_experts_per_tok": 3, "norm_topk_prob": True, "mlp_only_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }),
    ),
    "olmoe": dict(
        config=lambda: transformers.OlmoeConfig(**{
            **BASE, "num_key_value_heads": 2, "intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": False,
            "num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        }),
    ),
    "gpt-oss": dict(
        config=lambda: transformers.GptOssConfig(**{
            **BASE, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 32, "num_local_experts": 8, "num_experts_per_tok": 2,
            "sliding_window": 24, "swiglu_limit": 1.5, "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                "original_max_position_embeddings": 128},
        }),
    ),
    "deepseek-v2": dict(
        gap=1e-4,  # of its many choices some are near everywhere; an f32 run is off by a hundredth of this
        config=lambda: transformers.DeepseekV2Config(**{
            **BASE, "intermediate_size": 48, "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2,
            "first_k_dense_replace": 1, "q_lora_rank": None, "kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
            "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.0, "norm_topk_prob": False,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
                "mscale_all_dim": 0.707, "original_max_position_embeddings": 128},
        }),
    ),
    "deepseek-v3": dict(
        gap=1e-4,
        config=lambda: transformers.DeepseekV3Config(**{
            **BASE, "num_key_value_heads": 4, "intermediate_size": 48, "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1,
            "first_k_dense_replace": 1, "q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
            "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True, "num_mtp_layers": 0,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
                "mscale_all_dim": 0.8, "original_max_position_embeddings": 128},
        }),
    ),
    "moe-plus-plus": dict(
        gap=1e-4,
        long=False,  # of twelve experts three are near each other too often
        config=lambda: own_families.MoEPlusPlusConfig(**{
            **BASE, "num_key_value_heads": 2, "intermediate_size": 32, "num_local_experts": 8, "num_experts_per_tok": 3, "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }),
    ),
    "momentum-smoe": dict(
        gap=1e-4,
        config=lambda: own_families.MomentumSMoEConfig(**{
            **BASE, "num_key_value_heads": 2, "intermediate_size": 32, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
            "momentum": 0.6, "momentum_step": 0.8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }),
    ),
    "rmoe": dict(
        gap=1e-4,
        long=False,
        config=lambda: own_families.RMoEConfig(**{
            **BASE, "num_key_value_heads": 2, "intermediate_size": 32, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
            "router_hidden_size": 12, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }),
    ),
    "bam": dict(
        long=False,  # each attention is Mixtral's
        config=lambda: own_families.BAMConfig(**{
            **BASE, "num_key_value_heads": 2, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
            "num_hidden_layers": 2, "num_attention_experts": 3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }),
    ),
}


def in_f64():
    """Makes transformers' modules mean f64 where they say f32; returns what undoes it."""

    class Torch:
        def __getattr__(self, attribute):
            return torch.float64 if attribute in ("float32", "float") else getattr(torch, attribute)

    modules = [m for n, m in list(sys.modules.items()) if n.startswith("transformers.") and getattr(m, "torch", None) is torch]
    for module in modules:
        module.torch = Torch()
    plain = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double

    def undo():
        for module in modules:
            module.torch = torch
        torch.Tensor.float = plain

    return undo


def randomise(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if "correction_bias" in n)]:
            if "correction_bias" in name:
                p.copy_(0.1 * torch.randn_like(p))
            elif "sinks" in name or "bias" in name:
                p.copy_(0.3 * torch.randn_like(p))
            elif p.dim() == 1:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "embed" in name:
                p.copy_(torch.randn_like(p))
            elif name.endswith("gate.weight") or name.endswith("router.weight"):
                p.copy_(torch.randn_like(p) * 0.35)
            else:
                fan_in = p.shape[-2] if "gpt_oss" in model.config.model_type and "experts" in name else p.shape[-1]
                p.copy_(torch.randn_like(p) * (1.4 / fan_in**0.5))
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16).to(p.dtype))


class Routes:
    """What the routers of a model chose in its last run: [layer][row] of ids by descending gate, and the smallest gap."""

    def __init__(self, model):
        self.layers, self.gap = [], 0.0
        for module in model.modules():
            if type(module).__name__.endswith("TopKRouter") or type(module).__name__.endswith("TopkRouter"):
                module.register_forward_hook(self.saw)

    def start(self):
        self.layers, self.gap = [], float("inf")

    def saw(self, module, _, output):
        logits, gates, ids = output
        order = gates.argsort(dim=-1, descending=True)
        self.layers.append(ids.gather(-1, order).tolist())
        near = [gates.sort(dim=-1, descending=True).values.diff(dim=-1).abs().min().item()] if gates.shape[-1] > 1 else []
        self.gap = min([self.gap, choice_gap(module, logits), *near])


def choice_gap(module, logits):
    """Between the last expert that is chosen and the first that is not, in what the choice is made by; of groups too."""
    scores = logits.sigmoid() if hasattr(module, "e_score_correction_bias") else logits.softmax(dim=-1)
    if hasattr(module, "e_score_correction_bias"):
        scores = scores + module.e_score_correction_bias
    k, gaps = module.top_k, []
    groups = getattr(module, "num_group", None) or 1
    if groups > 1 and getattr(module, "topk_method", "noaux_tc") != "greedy":
        top = 2 if hasattr(module, "e_score_correction_bias") else 1
        best = scores.view(-1, groups, scores.shape[-1] // groups).topk(top, dim=-1)[0].sum(dim=-1)
        kept = best.topk(module.topk_group, dim=-1)[1]
        sorted_best = best.sort(dim=-1, descending=True).values
        if module.topk_group < groups:
            gaps.append((sorted_best[:, module.topk_group - 1] - sorted_best[:, module.topk_group]).min().item())
        mask = torch.zeros_like(best).scatter_(1, kept, 1).unsqueeze(-1).expand(-1, groups, scores.shape[-1] // groups).reshape(scores.shape)
        scores = scores.masked_fill(mask == 0, -1e9)
    ordered = scores.sort(dim=-1, descending=True).values
    gaps.append((ordered[:, k - 1] - ordered[:, k]).min().item())
    return min(gaps)


def extend(model, routes, cache, ids, token, gap=ROUTE_GAP):
    """Logits after one more token, or None (and the cache as before) where a choice is near a tie."""
    routes.start()
    logits = model(torch.tensor([[token]]), cache=cache).logits[0, -1]
    if routes.gap >= gap:
        ids.append(token)
        return logits
    cache.crop(-1)
    return None


def draw(model, routes, seed, tokens=TOKENS, gap=ROUTE_GAP):
    random = torch.Generator().manual_seed(seed)
    cache, ids = DynamicCache(), []
    while len(ids) < tokens:
        extend(model, routes, cache, ids, int(torch.randint(3, VOCAB, (1,), generator=random)), gap)
    return ids


def greedy(model, routes, ids, gap):
    """Tokens and the smallest margin; None where one of them is near a tie."""
    cache, sequence, margins = DynamicCache(), [], []
    for token in ids:
        logits = extend(model, routes, cache, sequence, token)
    while len(sequence) < len(ids) + GREEDY_TOKENS:
        top = logits.topk(2)
        margins.append((top.values[0] - top.values[1]).item())
        logits = extend(model, routes, cache, sequence, top.indices[0].item(), gap) if margins[-1] >= TOP_GAP else None
        if logits is None:
            return None
    return dict(at=len(ids), tokens=sequence[len(ids):], minMargin=min(margins))


def relative_error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def load(name):
    return AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()


def run_f64(model, ids):
    """Logits and routes of a run in f64, which the model is widened for. Its rotary frequencies keep the values that they have in f32."""
    undo = in_f64()
    try:
        routes = Routes(model.double())
        routes.start()
        logits = model(torch.tensor([ids])).logits[0]
        assert logits.dtype == torch.float64
        return logits, routes.layers
    finally:
        undo()


def make_long(name):
    model = load(name)
    routes = Routes(model)
    ids = draw(model, routes, 7, LONG_TOKENS, LONG_GAP)
    routes.start()
    own = model(torch.tensor([ids])).logits[0, LONG_AT].double()
    chosen = list(routes.layers)
    exact, chosen64 = run_f64(model, ids)
    flips = [(l, t) for l, rows in enumerate(chosen) for t, row in enumerate(rows) if sorted(row) != sorted(chosen64[l][t])]
    assert not flips, f"{name}: f32 and f64 choose other experts at {flips[:5]}"
    exact = exact[LONG_AT]
    errors = [relative_error(own[i], exact[i]) for i in range(len(LONG_AT))]
    header = dict(magic=MAGIC, version=VERSION, remake=f"python3 test/golden/make_families.py long:{name}", torch=torch.__version__, transformers=transformers.__version__)
    golden = dict(ids=ids, positions=LONG_AT, logits=b64(exact), ownErrors=errors)
    (FOLDER / name / "long.json").write_text(json.dumps({**header, **golden}) + "\n")
    print(f"{name}, {LONG_TOKENS} tokens: own f32 errors {[f'{e:.1e}' for e in errors]}")


def make(name, spec, fast):
    for seed in range(1, 500):
        model = AutoModelForCausalLM.from_config(spec["config"](), dtype=torch.float32, attn_implementation="eager").eval()
        randomise(model, seed)
        routes = Routes(model)
        tokens = greedy(model, routes, draw(model, routes, seed, GREEDY_AT), spec.get("gap", ROUTE_GAP))
        if tokens:
            ids = draw(model, routes, seed)
            break
    else:
        raise SystemExit(f"{name}: no tie-free seed")
    routes.start()
    own = model(torch.tensor([ids])).logits[0].double()
    chosen = routes.layers
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    stored = load(name)
    assert relative_error(stored(torch.tensor([ids])).logits[0].double(), own) < 1e-5, "the stored model is another one"
    exact, chosen64 = run_f64(stored, ids)
    assert chosen64 == chosen
    error = relative_error(own[POSITIONS], exact[POSITIONS])
    header = dict(magic=MAGIC, version=VERSION, remake=f"python3 test/golden/make_families.py {name}", seed=seed, torch=torch.__version__, transformers=transformers.__version__)
    golden = dict(vocab=VOCAB, ids=ids, positions=POSITIONS, logits=b64(exact[POSITIONS]), ownError=error, routes=chosen, greedy=tokens)
    (folder / "golden.json").write_text(json.dumps({**header, **golden}) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: seed {seed}, own f32 error {error:.2e}, margin {tokens['minMargin']:.3f}, {size // 1000} KB, {[f.name for f in folder.iterdir()]}")


def rotations():
    """Frequencies that YaRN gives for published configs, as bits of f32, and the factor of cosines and sines."""
    tables = []
    for dims, context, parameters in (
        (64, 131072, {"rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 4096}),
        (64, 163840, {"rope_theta": 10000.0, "factor": 40.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}),
        (64, 163840, {"rope_theta": 10000.0, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096}),
        (128, 131072, {"rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 32768}),
        (128, 131072, {"rope_theta": 1000000.0, "factor": 4.0, "attention_factor": 1.5, "original_max_position_embeddings": 32768}),
    ):
        config = transformers.LlamaConfig(head_dim=dims, max_position_embeddings=context, rope_parameters={"rope_type": "yarn", **parameters})
        frequencies, factor = ROPE_INIT_FUNCTIONS["yarn"](config)
        tables.append(dict(dims=dims, context=context, parameters=parameters, bits=frequencies.view(torch.int32).tolist(), factor=factor))
    header = dict(magic=MAGIC, version=VERSION, remake="python3 test/golden/make_families.py rotations", torch=torch.__version__, transformers=transformers.__version__)
    (HERE / "rotations.json").write_text(json.dumps({**header, "tables": tables}) + "\n")


def main():
    torch.set_num_threads(1)  # more would wait for each other on a busy machine, and sums would depend on their number
    fast = make_tokenizer()
    with torch.no_grad():
        if not sys.argv[1:] or "rotations" in sys.argv:
            rotations()
        for name, spec in FAMILIES.items():
            wanted = sys.argv[1:] or [name, f"long:{name}"]
            if name in wanted:
                make(name, spec, fast)
            if (name in wanted or f"long:{name}" in wanted) and spec.get("long", True):
                make_long(name)


if __name__ == "__main__":
    main()
