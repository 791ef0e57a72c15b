"""Low-rank adapters (LoRA, Hu et al. 2021, by PEFT) on a policy, and the weights that it then has."""

from __future__ import annotations

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from ttrl_repro.config import Lora
from ttrl_repro.errors import UserError
from ttrl_repro.seeds import derive_seed

ADAPTER = "default"  # PEFT's name for the one that trains; TRL adds a frozen "ref" where the loss has a KL term


def with_adapters(model: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """The model with adapters that change nothing yet; its own weights are frozen.

    Raises UserError for modules that it does not have.
    """
    names = lora.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,  # the sampler has none either
        target_modules=list(names) if names else "all-linear",
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "lora"))
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"lora.target_modules: {' '.join(str(error).split())[:200]}") from error
    for name, module in model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        layer = module.get_base_layer()
        if not isinstance(layer, nn.Linear) or module is model.get_output_embeddings():
            what = "the output matrix" if isinstance(layer, nn.Linear) else "no matrix"
            raise UserError(f"lora.target_modules: {name} is {what}; use linear layers of the blocks, such as q_proj")
    return adapted


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether the model carries adapters."""
    return isinstance(model, PeftModel)


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's weights under the language model's own names, detached, the adapters' products added."""
    if not isinstance(model, PeftModel):
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}
    inner = model.get_base_model()
    weights = {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in inner.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in inner.named_modules():
        if isinstance(module, BaseTunerLayer):
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(ADAPTER).detach()
    return weights
