import pytest
import torch

from analysis import load
from analysis.claims import first_majority
from analysis.controls import per_run
from ttrl_repro.config import Evaluate, Experiment, Seeds
from ttrl_repro.errors import UserError
from ttrl_repro.models import load_model
from ttrl_repro.sharpened import sharpen, write_sharpened


def test_sharpening_divides_logits():
    model, tokenizer = load_model("mini-xs")
    ids = tokenizer("47+36*7=", return_tensors="pt").input_ids
    with torch.no_grad():
        before = model(ids).logits
        sharpen(model, 0.25)
        after = model(ids).logits
    torch.testing.assert_close(after, before / 0.25, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_sharpened_is_refused():
    with pytest.raises(UserError, match="no last norm"):
        sharpen(torch.nn.Linear(2, 2), 0.5)  # type: ignore[arg-type]


def test_a_sharpened_base_does_not_exceed_its_first_majority_vote(tmp_path):
    """The pipeline can say no: a base that learned nothing, but looks trained, is not reported as a gain."""
    settings = Evaluate(k=16, votes=32, base_temperatures=(0.3, 0.6, 1.0), fresh=False)
    for draw in range(4):
        experiment = Experiment(
            name="sharpened", task="mini-30", model="mini-xs", evaluate=settings, seeds=Seeds(draw=draw, rl=draw)
        )
        write_sharpened(experiment, 0.3, tmp_path / f"r{draw}")
    study = load(tmp_path)
    # It does look trained: its average rises.
    assert per_run(study)["gain"].mean() > 0.03
    (judged,) = first_majority(study).to_dict("records")
    assert judged["n"] == 4
    assert judged["verdict"] == "first majority not exceeded"
