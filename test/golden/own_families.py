"""Reference models, in torch, of families that transformers does not have: MoE++, MomentumSMoE, RMoE and BAM, each as Mixtral but for what
its paper changes. make_families.py makes their checkpoints and golden numbers as those of all others.

Written from the papers' formulas (arXiv 2410.07348, 2410.14574, 2408.06793, 2408.08274). What passes from layer to layer is in `Carried`.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralDecoderLayer, MixtralExperts, apply_rotary_pos_emb, eager_attention_forward


class Carried:
    """What a layer hands to the next one of each token; nothing before the first."""

    value = None


def chosen(router, logits, normalize):
    gates, ids = torch.topk(logits.softmax(dim=-1), router.top_k, dim=-1)
    return logits, gates / gates.sum(dim=-1, keepdim=True) if normalize else gates, ids


# MoE++


class MoEPlusPlusConfig(MixtralConfig):
    model_type = "moe_plus_plus"

    def __init__(self, num_constant_experts=2, num_copy_experts=1, num_zero_experts=1, free_experts_tau=0.75, gating_residual=True, norm_topk_prob=False, **more):
        self.num_constant_experts, self.num_copy_experts, self.num_zero_experts = num_constant_experts, num_copy_experts, num_zero_experts
        self.free_experts_tau, self.gating_residual, self.norm_topk_prob = free_experts_tau, gating_residual, norm_topk_prob
        super().__init__(**more)


class MoEPlusPlusTopKRouter(nn.Module):
    def __init__(self, config, layer, carried):
        super().__init__()
        count = config.num_local_experts + config.num_constant_experts + config.num_copy_experts + config.num_zero_experts
        self.top_k, self.normalize, self.carried = config.num_experts_per_tok, config.norm_topk_prob, carried
        self.weight = nn.Parameter(torch.empty(count, config.hidden_size))
        if layer > 0 and config.gating_residual:
            self.residual = nn.Linear(count, count, bias=False)

    def forward(self, x):
        logits = F.linear(x, self.weight)
        if hasattr(self, "residual"):
            logits = logits + self.residual(self.carried.value)
        self.carried.value = logits
        return chosen(self, logits, self.normalize)


class Constants(nn.Module):
    def __init__(self, count, hidden):
        super().__init__()
        self.mix = nn.Linear(hidden, 2 * count, bias=False)
        self.values = nn.Linear(count, hidden, bias=False)

    def forward(self, x):
        shares = self.mix(x).view(x.shape[0], -1, 2).softmax(dim=-1)
        return shares[..., :1] * x[:, None] + shares[..., 1:] * self.values.weight.T


class MoEPlusPlusBlock(nn.Module):
    def __init__(self, config, layer, carried):
        super().__init__()
        self.config = config
        self.gate = MoEPlusPlusTopKRouter(config, layer, carried)
        self.experts = MixtralExperts(config)
        self.constants = Constants(config.num_constant_experts, config.hidden_size)

    def forward(self, hidden_states):
        x = hidden_states.view(-1, hidden_states.shape[-1])
        _, gates, ids = self.gate(x)
        count, constants, copies = self.config.num_local_experts, self.config.num_constant_experts, self.config.num_copy_experts
        y = self.experts(x, ids.clamp(max=count), gates)
        weight = torch.zeros(x.shape[0], self.gate.weight.shape[0], dtype=x.dtype).scatter_(1, ids, gates)
        y = y + (weight[:, count : count + constants, None] * self.constants(x)).sum(dim=1)
        y = y + weight[:, count + constants : count + constants + copies].sum(dim=1, keepdim=True) * x
        return y.view(hidden_states.shape)


class MoEPlusPlusForCausalLM(MixtralForCausalLM):
    config_class = MoEPlusPlusConfig

    def __init__(self, config):
        super().__init__(config)
        carried = Carried()
        for index, layer in enumerate(self.model.layers):
            layer.mlp = MoEPlusPlusBlock(config, index, carried)


# MomentumSMoE


class MomentumSMoEConfig(MixtralConfig):
    model_type = "momentum_smoe"

    def __init__(self, momentum=0.7, momentum_step=1.0, **more):
        self.momentum, self.momentum_step = momentum, momentum_step
        super().__init__(**more)


class MomentumLayer(MixtralDecoderLayer):
    def __init__(self, config, index, carried):
        super().__init__(config, index)
        self.config, self.index, self.carried = config, index, carried

    def forward(self, hidden_states, **more):
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **more)
        residual = hidden_states + attended
        p = self.mlp(self.post_attention_layernorm(residual))
        if self.index > 0:
            p = self.config.momentum * self.carried.value + p
        self.carried.value = p
        return residual + self.config.momentum_step * p


class MomentumSMoEForCausalLM(MixtralForCausalLM):
    config_class = MomentumSMoEConfig

    def __init__(self, config):
        super().__init__(config)
        carried = Carried()
        self.model.layers = nn.ModuleList([MomentumLayer(config, index, carried) for index in range(config.num_hidden_layers)])


# RMoE


class RMoEConfig(MixtralConfig):
    model_type = "rmoe"

    def __init__(self, router_hidden_size=128, **more):
        self.router_hidden_size = router_hidden_size
        super().__init__(**more)


class Cell(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.input, self.state = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, x, h):
        return torch.gru_cell(x, torch.zeros_like(x) if h is None else h, self.input.weight, self.state.weight, self.input.bias, self.state.bias)


class RecurrentTopKRouter(nn.Module):
    def __init__(self, config, index, cell, carried):
        super().__init__()
        self.top_k, self.index, self.cell, self.carried = config.num_experts_per_tok, index, [cell], carried
        self.proj = nn.Linear(config.hidden_size, config.router_hidden_size, bias=False)
        self.weight = nn.Parameter(torch.empty(config.num_local_experts, config.router_hidden_size))

    def forward(self, x):
        self.carried.value = self.cell[0](self.proj(x.view(-1, x.shape[-1])), self.carried.value if self.index > 0 else None)
        return chosen(self, F.linear(self.carried.value, self.weight), True)


class RMoEForCausalLM(MixtralForCausalLM):
    config_class = RMoEConfig

    def __init__(self, config):
        super().__init__(config)
        carried = Carried()
        self.model.router_cell = Cell(config.router_hidden_size)
        for index, layer in enumerate(self.model.layers):
            layer.mlp.gate = RecurrentTopKRouter(config, index, self.model.router_cell, carried)


# BAM


class BAMConfig(MixtralConfig):
    model_type = "bam"

    def __init__(self, num_attention_experts=2, share_key_values=False, **more):
        self.num_attention_experts, self.share_key_values = num_attention_experts, share_key_values
        super().__init__(**more)


class AttentionExperts(nn.Module):
    """The sum over attentions of gate * attention(x). Rows of the matrices go by head of keys, then by attention, then by head."""

    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer, self.head_dim = config, layer, config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        wide = config.num_attention_experts * config.num_attention_heads * self.head_dim
        keys = config.num_key_value_heads * self.head_dim * (1 if config.share_key_values else config.num_attention_experts)
        self.gate = nn.Linear(config.hidden_size, config.num_attention_experts, bias=False)
        self.q_proj, self.o_proj = nn.Linear(config.hidden_size, wide, bias=False), nn.Linear(wide, config.hidden_size, bias=False)
        self.k_proj, self.v_proj = nn.Linear(config.hidden_size, keys, bias=False), nn.Linear(config.hidden_size, keys, bias=False)

    def forward(self, hidden_states, position_embeddings, attention_mask, cache=None, **more):
        x, heads = hidden_states, self.config.num_key_value_heads
        batch, tokens, count = x.shape[0], x.shape[1], self.config.num_attention_experts
        q, k, v = (p(x).view(batch, tokens, -1, self.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        gates, y = self.gate(x).softmax(dim=-1), 0
        outputs = self.o_proj.weight.view(x.shape[-1], heads, count, -1)
        for expert in range(count):
            own = q.unflatten(1, (heads, count, -1))[:, :, expert].flatten(1, 2)
            keys, values = (k, v) if self.config.share_key_values else (each.unflatten(1, (heads, count))[:, :, expert] for each in (k, v))
            attended, _ = eager_attention_forward(self, own, keys, values, attention_mask, self.head_dim**-0.5)
            y = y + gates[..., expert, None] * F.linear(attended.reshape(batch, tokens, -1), outputs[:, :, expert].flatten(1))
        return y, None


class BAMForCausalLM(MixtralForCausalLM):
    config_class = BAMConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn = AttentionExperts(config, index)


for config, model in (
    (MoEPlusPlusConfig, MoEPlusPlusForCausalLM), (MomentumSMoEConfig, MomentumSMoEForCausalLM), (RMoEConfig, RMoEForCausalLM), (BAMConfig, BAMForCausalLM),
):
    AutoConfig.register(config.model_type, config)
    AutoModelForCausalLM.register(config, model)
