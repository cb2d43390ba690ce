"""Training of transformers' networks with queries: the results of each decoder layer, and EoMT's masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_POWER = 0.9  # of the annealing, as in EoMT's code


class MaskTraining(NamedTuple):
    """The result of a network with queries in training.

    Attributes:
        class_logits, mask_logits: see MaskClassification.
        aux: the two, of each prediction before the last one.
    """

    class_logits: Tensor
    mask_logits: Tensor
    aux: list[tuple[Tensor, Tensor]]


def run(network: Any, call: Callable[..., Any]) -> MaskTraining:
    """Return the results of all decoder layers.

    Args:
        network: network of transformers in training mode.
        call: calls it, with more arguments.
    """
    if hasattr(network, "attn_mask_probs"):
        return _run_eomt(network, call)
    out = call(output_auxiliary_logits=True, output_hidden_states=True)
    if hasattr(network, "mask_embedder"):
        aux = _of_maskformer(network, out)
    else:
        rows = out["auxiliary_predictions" if "auxiliary_predictions" in out else "auxiliary_logits"]
        aux = [(row["class_queries_logits"], row["masks_queries_logits"]) for row in rows]
    return MaskTraining(out["class_queries_logits"], out["masks_queries_logits"], aux)


def _run_eomt(network: Any, call: Callable[..., Any]) -> MaskTraining:
    """EoMT predicts before each block with queries, and returns the last prediction alone."""
    found: list[tuple[Tensor, Tensor]] = []
    predict = network.predict

    def keep(states: Tensor) -> tuple[Tensor, Tensor]:
        masks, classes = predict(states)
        found.append((classes, masks))
        return masks, classes

    network.predict = keep
    try:
        call()
    finally:
        del network.predict
    *aux, (classes, masks) = found
    return MaskTraining(classes, masks, aux)


def _of_maskformer(network: Any, out: Any) -> list[tuple[Tensor, Tensor]]:
    """Predict from the layers before the last; the first state is the decoder's input. The norm is DETR's, which the
    library has behind the last layer alone."""
    norm = network.model.transformer_module.decoder.layernorm
    states = [norm(state) for state in out["transformer_decoder_hidden_states"][1:-1]]
    pixels = out["pixel_decoder_last_hidden_state"]
    return [
        (network.class_predictor(s), torch.einsum("bqc,bchw->bqhw", network.mask_embedder(s), pixels)) for s in states
    ]


def encoder(network: Any) -> nn.Module:
    """Return the backbone; of EoMT its ViT."""
    if hasattr(network, "attn_mask_probs"):
        return nn.ModuleList([network.embeddings, network.layers, network.layernorm])
    return network.model.pixel_level_module.encoder


def queries(network: Any) -> int:
    """Return the number of queries."""
    config = network.config
    return config.decoder_config.num_queries if hasattr(network, "mask_embedder") else config.num_queries


@torch.no_grad()
def anneal(network: Any, done: float) -> None:
    """Set the share of the queries of each of EoMT's blocks that attend within their masks alone.

    It falls from 1 to 0, one block after the other, and stays 0: such a checkpoint needs no masks. The training has
    N + 2 equal parts for N blocks, of which number i is annealed in part i + 1, from 0 up, as by EoMT's authors
    (Kerssies et al. 2025, https://arxiv.org/abs/2503.19108).

    Args:
        done: part of the training that is over, 0 to 1.
    """
    probabilities = getattr(network, "attn_mask_probs", None)
    if probabilities is not None:
        count = len(probabilities)
        starts = torch.arange(1, count + 1, device=probabilities.device)
        progress = (done * (count + 2) - starts).clamp(0, 1)
        probabilities.copy_(torch.minimum(probabilities, (1 - progress) ** _POWER))
