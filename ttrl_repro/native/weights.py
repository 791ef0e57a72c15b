"""A model's weights in the layout of the native code."""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ttrl_repro.adapters import weights_of
from ttrl_repro.native.library import CLayer, CModel


def padded(weight: torch.Tensor, width: int) -> torch.Tensor:
    """The weight with zeros up to multiples of `width` in every dimension."""
    pads = [pad for size in reversed(weight.shape) for pad in (0, -size % width)]
    return F.pad(weight, pads)


class Buffers:
    """Memory that is kept from call to call: fresh pages are dear. Aligned to cache lines."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def floats(self, name: str, count: int) -> torch.Tensor:
        """At least `count` floats, uninitialised: the same memory as at the last call, unless it was too small."""
        held = self._held.get(name)
        if held is None or held.numel() < count:
            held = self._held[name] = torch.empty(count, dtype=torch.float32)
        return held


class Weights:
    """`c`: the structure that native functions take. It points into tensors that this object keeps alive."""

    def __init__(self, model: PreTrainedModel, width: int, *, backward: bool) -> None:
        """Read `model`'s weights in fp32, folding each norm's weight into the matrix behind it.

        Of fp32 weights some are not copied: this object is for one pass, during which they must not change.

        width: the native code's panels. backward: also the layout that gradients need.
        """
        config = model.config
        self.state = state = {name: tensor.float() for name, tensor in weights_of(model).items()}
        self.config = config
        self.padding_id = model.get_input_embeddings().padding_idx
        self._alive: list[torch.Tensor] = []
        hidden, dim = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        norm = state["model.norm.weight"]
        layers = (CLayer * config.num_hidden_layers)()
        for i, layer in enumerate(layers):
            at = f"model.layers.{i}."
            attention, mlp = state[f"{at}input_layernorm.weight"], state[f"{at}post_attention_layernorm.weight"]
            qkv = torch.cat([state[f"{at}self_attn.{x}_proj.weight"] for x in "qkv"]) * attention
            gate, up = (padded(state[f"{at}mlp.{x}_proj.weight"] * mlp, width) for x in ("gate", "up"))
            matrices = {
                "qkv": qkv,
                "out": state[f"{at}self_attn.o_proj.weight"],
                "gate_up": torch.cat([gate, up]),
                "down": state[f"{at}mlp.down_proj.weight"],
            }
            for name, matrix in matrices.items():
                setattr(layer, name, self._panels(matrix, width))
                if backward:
                    setattr(layer, f"{name}_t", self._panels(matrix.T, width))
            # The softmax scale 1/sqrt(d) goes into the query norm.
            layer.q_norm = self._keep(state[f"{at}self_attn.q_norm.weight"] * dim**-0.5)
            layer.k_norm = self._keep(state[f"{at}self_attn.k_norm.weight"])
        head = state["lm_head.weight"] * norm
        theta = config.rope_parameters["rope_theta"]
        inverse = 1.0 / theta ** (torch.arange(0, dim, 2).float() / dim)
        angles = torch.arange(config.max_position_embeddings).float()[:, None] * inverse
        self._layers = layers
        self.c = CModel(
            hidden=hidden + -hidden % width,
            hidden_real=hidden,
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=kv_heads,
            dim=dim,
            qkv=(heads + 2 * kv_heads) * dim + -((heads + 2 * kv_heads) * dim) % width,
            inner=config.intermediate_size + -config.intermediate_size % width,
            vocab=config.vocab_size + -config.vocab_size % width,
            vocab_real=config.vocab_size,
            layer=layers,
            embedding=self._keep(F.pad(state["model.embed_tokens.weight"], (0, -hidden % width))),
            head=self._panels(head, width),
            head_t=self._panels(head.T, width) if backward else None,
            cosines=self._keep(angles.cos()),
            sines=self._keep(angles.sin()),
            eps=config.rms_norm_eps,
        )

    @property
    def pointer(self) -> object:
        """To pass to a native function."""
        return ctypes.byref(self.c)

    def gradient_shapes(self) -> dict[tuple[int | None, str], torch.Size]:
        """Shapes of the folded weights' gradients, by (layer or None, name), in a fixed order."""
        c = self.c
        shapes: dict[tuple[int | None, str], torch.Size] = {}
        for i in range(c.layers):
            shapes[i, "qkv"] = torch.Size((c.qkv, c.hidden))
            shapes[i, "out"] = torch.Size((c.hidden, c.heads * c.dim))
            shapes[i, "gate_up"] = torch.Size((2 * c.inner, c.hidden))
            shapes[i, "down"] = torch.Size((c.hidden, c.inner))
            shapes[i, "q_norm"] = shapes[i, "k_norm"] = torch.Size((c.dim,))
        shapes[None, "embedding"] = torch.Size((c.vocab_real, c.hidden))
        shapes[None, "head"] = torch.Size((c.vocab, c.hidden))
        return shapes

    def unfold(self, folded: dict[tuple[int | None, str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gradients of the model's parameters, by name, from those of the folded weights."""
        config, state = self.config, self.state
        hidden, dim, inner = config.hidden_size, config.head_dim, config.intermediate_size
        widths = [config.num_attention_heads * dim, *[config.num_key_value_heads * dim] * 2]
        found: dict[str, torch.Tensor] = {}

        def behind(norm: str, gradients: dict[str, torch.Tensor]) -> None:
            # W' = W * g: dW = dW' * g, and dg sums dW' * W over rows and matrices.
            gain = state[norm]
            found[norm] = torch.stack([(gradient * state[name]).sum(0) for name, gradient in gradients.items()]).sum(0)
            found.update({name: gradient * gain for name, gradient in gradients.items()})

        for i in range(config.num_hidden_layers):
            at = f"model.layers.{i}."
            qkv = folded[i, "qkv"][: sum(widths), :hidden].split(widths)
            attention = {f"{at}self_attn.{x}_proj.weight": g for x, g in zip("qkv", qkv, strict=True)}
            behind(f"{at}input_layernorm.weight", attention)
            gate, up = (g[:inner, :hidden] for g in folded[i, "gate_up"].chunk(2))
            mlp = {f"{at}mlp.gate_proj.weight": gate, f"{at}mlp.up_proj.weight": up}
            behind(f"{at}post_attention_layernorm.weight", mlp)
            found[f"{at}self_attn.o_proj.weight"] = folded[i, "out"][:hidden].clone()
            found[f"{at}mlp.down_proj.weight"] = folded[i, "down"][:hidden, :inner].clone()
            found[f"{at}self_attn.q_norm.weight"] = folded[i, "q_norm"] * dim**-0.5
            found[f"{at}self_attn.k_norm.weight"] = folded[i, "k_norm"].clone()
        behind("model.norm.weight", {"lm_head.weight": folded[None, "head"][: config.vocab_size, :hidden]})
        embedding = folded[None, "embedding"][:, :hidden].clone()
        if self.padding_id is not None:
            embedding[self.padding_id] = 0  # as torch.nn.Embedding does
        found["model.embed_tokens.weight"] = embedding
        if config.tie_word_embeddings:
            found["model.embed_tokens.weight"] += found.pop("lm_head.weight")
        return found

    def _keep(self, tensor: torch.Tensor) -> int:
        tensor = tensor.contiguous()
        self._alive.append(tensor)
        return tensor.data_ptr()

    def _panels(self, weight: torch.Tensor, width: int) -> int:
        """(out, in) -> (out / width, in, width)."""
        weight = padded(weight, width)
        return self._keep(weight.unflatten(0, (-1, width)).transpose(1, 2))
