import torch

from ttrl_repro.updates import by_length, by_prompt, rearranged, with_signal


def batch(lengths, prompts=None):
    mask = torch.tensor([[1] * n + [0] * (4 - n) for n in lengths])
    prompt = torch.tensor([[0, 0, 1]] * len(lengths))
    return {
        "prompt_ids": prompt * (9 if prompts is None else torch.tensor(prompts)[:, None]),
        "prompt_mask": prompt,
        "completion_ids": mask * torch.arange(1, 5),
        "completion_mask": mask,
        "advantages": torch.tensor([float(n) for n in lengths]),
        "num_items_in_batch": torch.tensor(12.0),
        "sampling_per_token_logps": -mask.float() * torch.tensor(lengths)[:, None],
    }


def test_by_length_keeps_every_row_and_drops_padding():
    first, second = rearranged([batch([4, 1]), batch([2, 3])], by_length)
    assert first["advantages"].tolist() == [1, 2]
    assert first["completion_ids"].tolist() == [[1, 0], [1, 2]]
    assert first["sampling_per_token_logps"].tolist() == [[-1, 0], [-2, -2]]
    assert first["prompt_ids"].tolist() == [[9], [9]]
    assert second["completion_ids"].tolist() == [[1, 2, 3, 0], [1, 2, 3, 4]]
    assert second["num_items_in_batch"] == 12


def test_by_prompt_puts_rows_of_one_prompt_together_in_their_order():
    first, second = rearranged([batch([4, 1], [8, 5]), batch([2, 3], [8, 5])], by_prompt)
    assert first["prompt_ids"].tolist() == [[5], [5]]
    assert first["advantages"].tolist() == [1, 3]
    assert second["prompt_ids"].tolist() == [[8], [8]]
    assert second["advantages"].tolist() == [4, 2]


def test_rows_without_advantage_are_left_out():
    given = batch([4, 1, 2])
    given["advantages"] = torch.tensor([0.0, -0.5, 0.5])
    live, share = with_signal(given)
    assert live["advantages"].tolist() == [-0.5, 0.5]
    assert live["completion_mask"].sum(1).tolist() == [1, 2]
    assert share == 3 / 7  # of the tokens
    assert live["num_items_in_batch"] == 12  # the loss still divides by all tokens
    given["advantages"] = torch.zeros(3)
    live, share = with_signal(given)
    assert live["advantages"].tolist() == [0.0]  # a loss needs a row
    assert share == 4 / 7
    given["advantages"] = torch.ones(3)
    assert with_signal(given) == (given, 1.0)
