"""Advantages by hand: small exact vectors, the reason beside them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ttrl_repro.algorithms import ALGORITHMS, DAPO, GRPO, PPO, PRIME, RLOO, DrGRPO, ReinforcePP
from ttrl_repro.algorithms.base import centred, leave_one_out
from ttrl_repro.algorithms.ppo import at_last_token, gae
from ttrl_repro.algorithms.prime import process_advantages

# One question of which 1 in 4 samples is rewarded, one whose samples all are.
REWARDS = np.array([[1.0, 0, 0, 0], [1, 1, 1, 1]])


def test_grpo():
    # Mean 1/4; deviations 3/4, -1/4 x 3; variance (9/16 + 3/16) / 3 = 1/4, so std 1/2 (ddof 1).
    found = GRPO().advantages(REWARDS)
    assert found[0] == pytest.approx(np.array([1.5, -0.5, -0.5, -0.5]) * 0.5 / (0.5 + 1e-4))
    assert found[1].tolist() == [0, 0, 0, 0]  # all agree: no signal


def test_dr_grpo_does_not_divide_by_the_standard_deviation():
    assert DrGRPO().advantages(REWARDS).tolist() == [[0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0]]
    assert DrGRPO().trl_arguments()["loss_type"] == "dr_grpo"


def test_dapo_is_grpo_with_a_wider_upper_bound():
    assert np.array_equal(DAPO().advantages(REWARDS), GRPO().advantages(REWARDS))
    arguments = DAPO().trl_arguments()
    assert (arguments["loss_type"], arguments["epsilon"], arguments["epsilon_high"]) == ("dapo", 0.2, 0.28)
    with pytest.raises(ValueError, match=r"clip_high \(0.1\) must be at least clip \(0.2\)"):
        DAPO(clip_high=0.1)


def test_rloo_leaves_the_sample_s_own_reward_out_of_its_baseline():
    # The others' means are 0, and 1/3 for each of the rest.
    assert RLOO().advantages(REWARDS)[0] == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert RLOO().advantages(REWARDS)[1].tolist() == [0, 0, 0, 0]


def test_reinforce_pp_has_one_baseline_for_all_questions():
    # Mean 5/8; deviations 3/8 x 5 and -5/8 x 3; variance (5 * 9 + 3 * 25) / 64 / 7 = 120/448.
    std = (120 / 448) ** 0.5
    found = ReinforcePP().advantages(REWARDS)
    assert found[0] == pytest.approx([0.375 / std, *[-0.625 / std] * 3])
    assert found[1] == pytest.approx([0.375 / std] * 4)  # a question of one mind is pushed up
    assert ReinforcePP().advantages(np.ones((2, 4))).tolist() == [[0] * 4, [0] * 4]


def test_ppo_and_prime_per_sample():
    assert PPO().advantages(REWARDS).tolist() == centred(REWARDS).tolist()
    assert PRIME().advantages(REWARDS).tolist() == leave_one_out(REWARDS).tolist()


@pytest.mark.parametrize("name", list(ALGORITHMS.own))
@given(rewards=arrays(np.float64, (3, 5), elements=st.sampled_from([0.0, 1.0, 0.25])), order=st.permutations(range(5)))
def test_the_order_of_samples_does_not_matter(name, rewards, order):
    algorithm = ALGORITHMS.make(name)
    found = algorithm.advantages(rewards)
    assert algorithm.advantages(rewards[:, order]) == pytest.approx(found[:, order])
    assert abs(found.mean()) < 1e-9


def test_gae_by_hand():
    # One row of two tokens and padding: delta = (0 + .5 * .4 - .2, 1 - .4) = (0, .6); A = (0 + .5 * .5 * .6, .6).
    found = gae(np.array([[0, 1.0, 0]]), np.array([[0.2, 0.4, 9]]), np.array([[1, 1, 0]]), gamma=0.5, gae_lambda=0.5)
    assert found[0] == pytest.approx([0.15, 0.6, 0])


@given(
    values=arrays(np.float64, (4, 6), elements=st.floats(-2, 2)),
    rewards=arrays(np.float64, 4, elements=st.floats(-1, 1)),
    lengths=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.95, 1.0]),
)
def test_gae_is_the_direct_sum(values, rewards, lengths, gamma, gae_lambda):
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(int)
    given_rewards = at_last_token(rewards, mask)
    found = gae(given_rewards, values, mask, gamma, gae_lambda)
    for i, n in enumerate(lengths):
        after = [*values[i, 1:n], 0.0]
        deltas = [given_rewards[i, t] + gamma * after[t] - values[i, t] for t in range(n)]
        for t in range(n):
            direct = sum((gamma * gae_lambda) ** k * deltas[t + k] for k in range(n - t))
            assert found[i, t] == pytest.approx(direct, abs=1e-9)
        assert not found[i, n:].any()
        if gamma == gae_lambda == 1:  # the return minus the value
            assert found[i, :n] == pytest.approx(rewards[i] - values[i, :n], abs=1e-9)


def test_rewards_are_given_at_each_sample_s_own_last_token():
    assert at_last_token(np.array([0.5, 1]), np.array([[1, 1, 0], [1, 1, 1]])).tolist() == [[0, 0.5, 0], [0, 0, 1]]


def test_process_advantages_by_hand():
    # Two samples of 2 and 1 tokens. Means: 2 and 1; each is the other's baseline. Left: (1 - 1, 3 - 1) and (1 - 2).
    rewards, mask = np.array([[[1.0, 3], [1, 7]]]), np.array([[[1, 1], [1, 0]]])
    assert process_advantages(rewards, mask, gamma=1.0).tolist() == [[[2, 2], [-1, 0]]]
    assert process_advantages(rewards, mask, gamma=0.5).tolist() == [[[1, 2], [-1, 0]]]


@given(
    rewards=arrays(np.float64, (2, 3, 4), elements=st.floats(-1, 1)),
    lengths=arrays(np.int64, (2, 3), elements=st.integers(1, 4)),
    gamma=st.sampled_from([0.5, 1.0]),
)
def test_process_advantages_are_the_direct_sum(rewards, lengths, gamma):
    mask = (np.arange(4) < lengths[..., None]).astype(int)
    found = process_advantages(rewards, mask, gamma)
    for q in range(2):
        means = [rewards[q, i, : lengths[q, i]].mean() for i in range(3)]
        for i in range(3):
            baseline = sum(means[j] for j in range(3) if j != i) / 2
            for t in range(4):
                steps = range(t, lengths[q, i])
                direct = sum(gamma ** (s - t) * (rewards[q, i, s] - baseline) for s in steps)
                assert found[q, i, t] == pytest.approx(direct, abs=1e-9)
