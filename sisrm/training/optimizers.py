"""AdamW for everything, or Muon for the weights of linear layers and AdamW for the rest.

Muon (Jordan 2024; torch's own) makes each step an orthogonal matrix. Its rate is matched to AdamW's size of step (Liu et al.
2025), so both take the same learning rate. In a trial from one checkpoint of the segmenter, 200 steps at 1e-3, it got further on the
same samples: 0.303 against 0.280 agreement on photos not trained on, for a tenth more time per step.
"""

from __future__ import annotations

import torch
from torch import nn

OPTIMIZERS = ("adamw", "muon")


def build(
    stage: nn.Module, parameters: list[nn.Parameter], kind: str, learning_rate: float, betas, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers that together move `parameters`, some of the parameters of `stage`. kind: one of OPTIMIZERS."""
    linear = (
        {id(module.weight) for module in stage.modules() if isinstance(module, nn.Linear)} if kind == "muon" else set()
    )
    matrices = [parameter for parameter in parameters if id(parameter) in linear]
    others = [parameter for parameter in parameters if id(parameter) not in linear]
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=learning_rate, betas=betas, weight_decay=weight_decay))
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers
