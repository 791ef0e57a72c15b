"""The stacked Muon beside PyTorch's, which takes one matrix after another."""

import copy
import math

import pytest
import torch

from ttrl_repro.miniature.muon import Muon, orthogonalised

# Two shapes, one of them also transposed, in mixed order: stacks of three, one and two.
SHAPES = [(64, 192), (64, 64), (192, 64), (32, 64), (64, 64), (64, 192)]
RATE, DECAY = 3e-3, 1.0  # a decay that is seen after a few steps
# Both iterate in bf16 (8 bits), five times. Measured: 0.011 to 0.016 between the two after one step, 0.004 to 0.006
# after twenty, of the norm of what the weights moved; either is about 0.7 times as far from the same iteration in fp64.
TOLERANCE = 0.03


def gradients(step: int) -> list[torch.Tensor]:
    """Gradients whose singular values spread over three decades, as real ones do."""
    random = torch.Generator().manual_seed(step)
    return [torch.randn(m, n, generator=random) * torch.logspace(0, -3, n) for m, n in SHAPES]


def trained(optimizer_of, steps: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Matrices before and after `steps` steps, with a learning rate that changes as a schedule's does."""
    random = torch.Generator().manual_seed(100)
    before = [0.02 * torch.randn(*shape, generator=random) for shape in SHAPES]
    after = [torch.nn.Parameter(matrix.clone()) for matrix in before]
    optimizer = optimizer_of(after)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE / (1 + step)
        for matrix, gradient in zip(after, gradients(step), strict=True):
            matrix.grad = gradient
        optimizer.step()
    return before, [matrix.detach() for matrix in after]


def stacked(matrices):
    return Muon(matrices, lr=RATE, weight_decay=DECAY)


def torchs(matrices):
    return torch.optim.Muon(matrices, lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")


@pytest.mark.parametrize("steps", [1, 5])
def test_the_update_is_that_of_torch(steps):
    before, ours = trained(stacked, steps)
    _, theirs = trained(torchs, steps)
    for start, one, other in zip(before, ours, theirs, strict=True):
        moved = (other - start).norm()
        assert moved > 0.01
        assert (one - other).norm() < TOLERANCE * moved


@pytest.mark.parametrize("change", [{"momentum": 0.9}, {"weight_decay": 0.0}])
def test_the_tolerance_tells_another_setting_apart(change):
    before, ours = trained(lambda matrices: Muon(matrices, **({"lr": RATE, "weight_decay": DECAY} | change)), 5)
    _, theirs = trained(torchs, 5)
    far = [(a - b).norm() / (b - c).norm() for a, b, c in zip(ours, theirs, before, strict=True)]
    assert max(far) > TOLERANCE


def test_the_same_steps_twice_are_bitwise_equal():
    for one, two in zip(trained(stacked, 3)[1], trained(stacked, 3)[1], strict=True):
        assert torch.equal(one, two)


def test_one_step_by_hand():
    # A 1 x n gradient has one singular value, its norm: after the division it is 1, and the quintic
    # takes 1 to 3.4445 - 4.7750 + 2.0315 = 0.701, and so on. Weights of 1 decay by 1 - lr * decay.
    value = 1.0
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    matrix = torch.nn.Parameter(torch.ones(1, 4))
    matrix.grad = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    Muon([matrix], lr=0.1, weight_decay=0.5).step()
    moved = 0.1 * 0.2 * math.sqrt(4) * value
    assert matrix.tolist()[0] == pytest.approx([0.95 - moved, 0.95, 0.95, 0.95], abs=4e-4)


def test_orthogonalised_brings_singular_values_near_one():
    matrices = torch.stack(gradients(0)[:1] + gradients(1)[:1])
    values = torch.linalg.svdvals(orthogonalised(matrices))
    # Jordan's coefficients aim at 0.7 to 1.2 from about a hundredth of the largest on.
    assert values.max() < 1.3
    assert values[:, :20].min() > 0.6
    assert torch.isfinite(orthogonalised(torch.zeros(1, 4, 8))).all()


def test_only_matrices():
    with pytest.raises(ValueError, match="not for a parameter of shape"):
        Muon([torch.nn.Parameter(torch.ones(3))], lr=RATE)


def test_its_state_is_saved_and_loaded():
    _, whole = trained(stacked, 3)
    random = torch.Generator().manual_seed(100)
    matrices = [torch.nn.Parameter(0.02 * torch.randn(*shape, generator=random)) for shape in SHAPES]
    optimizer = stacked(matrices)
    for step in range(3):
        if step == 2:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = stacked(matrices)
            optimizer.load_state_dict(saved)
        for group in optimizer.param_groups:
            group["lr"] = RATE / (1 + step)
        for matrix, gradient in zip(matrices, gradients(step), strict=True):
            matrix.grad = gradient
        optimizer.step()
    for matrix, expected in zip(matrices, whole, strict=True):
        assert torch.equal(matrix, expected)
