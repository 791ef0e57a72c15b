"""Muon (Jordan et al. 2024) for many small matrices: those of one shape are orthogonalised together.

`torch.optim.Muon` makes 15 products a matrix, one after another, and for small matrices most of their time is
the cost of a call. Here the matrices of one shape are a stack, and a product of stacks is one call. The update is
the same, up to rounding (both iterate in bf16).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

# Of Jordan's quintic iteration, and of torch.optim.Muon.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` and Nesterov momentum.

    For a gradient G of an (m, n) matrix W, with momentum mu:

        M <- mu M + (1 - mu) G
        W <- (1 - lr weight_decay) W - 0.2 sqrt(max(m, n)) lr O,   O = orthogonalised((1 - mu) G + mu M)

    Every parameter needs a gradient at every step. Raises ValueError for a parameter that is no matrix.
    """

    def __init__(
        self, matrices: Iterable[torch.Tensor], lr: float, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for matrix in matrices:
            if matrix.dim() != 2:
                raise ValueError(f"Muon is for matrices, not for a parameter of shape {tuple(matrix.shape)}")
            # A matrix and one of the transposed shape go together: the iteration works on the wide one.
            by_shape.setdefault(tuple(sorted(matrix.shape)), []).append(matrix)
        super().__init__(
            [{"params": same} for same in by_shape.values()],
            {"lr": lr, "weight_decay": weight_decay, "momentum": momentum},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all matrices; `closure` recomputes the loss, which is then returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices, momentum = group["params"], group["momentum"]
            gradient_KMN = torch.stack([wide(matrix.grad) for matrix in matrices])
            state = self.state[matrices[0]]
            if "momentum_KMN" not in state:
                state["momentum_KMN"] = torch.zeros_like(gradient_KMN)
            state["momentum_KMN"].lerp_(gradient_KMN, 1 - momentum)
            update_KMN = orthogonalised(gradient_KMN.lerp_(state["momentum_KMN"], momentum))
            rate = group["lr"] * 0.2 * math.sqrt(max(matrices[0].shape))
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_([wide(matrix) for matrix in matrices], list(update_KMN.unbind()), alpha=-rate)
        return loss


def wide(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, or a view of its transpose if it is higher than wide."""
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonalised(matrices_KMN: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iteration of K matrices (M, N), M <= N: singular values go to about 1, in fp32 from bf16.

    On CPUs with bf16 instructions that is twice as fast as fp32.
    """
    a, b, c = COEFFICIENTS
    norms_K11 = matrices_KMN.flatten(1).norm(dim=1)[:, None, None].clamp(min=SMALLEST_NORM)
    x_KMN = (matrices_KMN / norms_K11).bfloat16()
    for _ in range(STEPS):
        gram_KMM = torch.bmm(x_KMN, x_KMN.mT)
        polynomial_KMM = torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=b, alpha=c)
        x_KMN = torch.baddbmm(x_KMN, polynomial_KMM, x_KMN, beta=a)
    return x_KMN.float()
