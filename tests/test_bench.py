"""The arithmetic of the measurements; nothing here is timed."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import flops, growth, harness
from bench.floor import floor_seconds
from bench.harness import Measurement, Run, log_slope, order, spread, table
from bench.phases import Phases
from bench.savings import replayed
from bench.stock_trl import MajorityVote, answer
from bench.worker import Worker
from ttrl_repro.adaptive import SequentialRule
from ttrl_repro.miniature.recipes import load_recipe
from ttrl_repro.miniature.tokenizer import VOCABULARY


def measured(**seconds):
    return Measurement({name: [Run(10, s) for s in values] for name, values in seconds.items()})


def test_rates_and_seconds_are_per_unit_of_work():
    found = measured(ours=[2.0, 5.0])
    assert found.seconds("ours") == [0.2, 0.5]
    assert found.rates("ours") == [5.0, 2.0]


def test_a_ratio_is_of_medians_and_its_range_of_the_repeats():
    # Medians 2 and 8; within repeats 8/1, 10/2, 6/4.
    ratio = measured(ours=[1.0, 2.0, 4.0], peer=[8.0, 10.0, 6.0]).faster("ours", "peer")
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((4.0, 1.5, 8.0))


def test_contestants_need_equally_many_repeats():
    with pytest.raises(ValueError, match="same number"):
        Measurement({"one": [Run(1, 1)], "two": []})


def test_turns_alternate_and_the_warm_up_does_not_count():
    turns = []

    def contestant(name):
        def work(repeat):
            turns.append((repeat, name))
            return Run(1, 1.0)

        return work

    progress = SimpleNamespace(start=lambda *_, **__: None, advance=lambda **_: None, finish=lambda: None)
    found = harness.measure({n: contestant(n) for n in "ab"}, 2, progress, "")
    assert turns == [(-1, "b"), (-1, "a"), (0, "a"), (0, "b"), (1, "b"), (1, "a")]
    assert len(found.runs["a"]) == 2
    assert order("abc", 3) == ["c", "b", "a"]


def test_the_log_slope_of_powers():
    sizes = [1, 2, 4]
    # Repeat 0 grows linearly, repeat 1 with the square; the medians (their means) 1, 3, 10.
    slope = log_slope(sizes, [[1, 1], [2, 4], [4, 16]])
    assert slope.low == pytest.approx(1)
    assert slope.high == pytest.approx(2)
    # x = log 2 * (-1, 0, 1): (log 10 - log 1) / (2 log 2)
    assert slope.value == pytest.approx(math.log(10) / (2 * math.log(2)))
    with pytest.raises(ValueError, match="two sizes"):
        log_slope([1], [[1]])


def test_memory_slope_in_mib_per_100_steps():
    assert growth.memory_slope([2**20 * (5 + 3 * i) for i in range(4)]) == pytest.approx(300)


def test_spread_and_table():
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0 to 3.0)"
    assert table(["", "s"], [["one", "10"], ["b", "2"]]) == ["      s", "one  10", "b     2"]


def test_operations_of_a_model_small_enough_to_count():
    # One layer, width 2, one query and one key/value head of 2, inner width 3, 5 tokens in the vocabulary:
    # q, k, v, o of 4 weights each, gate, up, down of 6 each; head 10.
    config = SimpleNamespace(
        hidden_size=2,
        head_dim=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=3,
        num_hidden_layers=1,
        vocab_size=5,
    )
    shape = flops.Shape.of(config)
    assert shape == flops.Shape(block_weights=34, head_weights=10, attended=2)
    # 3 positions behind 2: 2 * 3 * 34 in the block, 2 * 10 for one position's logits; 3 + 4 + 5 pairs, each 4 * 2.
    assert flops.sequence(shape, 3, before=2, heads=1) == 204 + 20 + 96
    # The prompt of 2 once (136 + 20 + 3 * 8); completions of 1 (nothing left to run) and 2 (68 + 20 + 3 * 8).
    rows = [(2, [1, 2])]
    assert flops.sampling(shape, rows) == 180 + 112
    assert flops.training(shape, rows) == 3 * (180 + 112)
    # Padded: 2 rows, each with its prompt, both as long as the longer one.
    assert flops.padded_sampling(shape, rows) == 2 * (180 + 112)
    # 4 positions and their 10 pairs, of which 2 give logits.
    assert flops.padded_training(shape, rows) == 3 * 2 * (2 * 4 * 34 + 2 * 2 * 10 + 10 * 8)


def test_operations_count_the_weights_of_the_real_architecture():
    architecture = load_recipe("mini-s").architecture
    config = SimpleNamespace(
        hidden_size=architecture.hidden_size,
        head_dim=architecture.head_dim,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.kv_heads,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.layers,
        vocab_size=len(VOCABULARY),
    )
    shape = flops.Shape.of(config)
    norms = architecture.layers * (2 * architecture.hidden_size + 2 * architecture.head_dim) + architecture.hidden_size
    assert shape.block_weights + shape.head_weights + norms == architecture.parameters()
    assert 3e6 < growth.MINI_M.parameters() < 4e6


def test_the_floor_is_the_longer_of_computing_and_moving():
    assert floor_seconds(operations=100, rate=50, moved=30, bandwidth=10) == 3
    assert floor_seconds(operations=100, rate=20, moved=30, bandwidth=10) == 5


def test_phases_count_what_is_inside_as_itself_alone():
    phases = Phases(iter([0.0, 1.0, 3.0, 7.0]).__next__)
    inner = phases.around("inner", lambda: None)
    phases.around("outer", inner)()
    assert phases.take() == {"outer": 5.0, "inner": 2.0}
    assert phases.take() == {}


def test_stock_reward_is_the_majority_of_its_group():
    texts = ["1+1=2;\\boxed{2}", "\\boxed{3}", "x\\boxed{2}", "none", "\\boxed{7}", "none", "", "\\boxed{1}\\boxed{7}"]
    assert [answer(text) for text in texts[-2:]] == [None, "7"]
    assert MajorityVote(4)(completions=texts) == [1, 0, 1, 0, 1, 0, 0, 1]


def test_a_rule_replayed_on_recorded_votes():
    rule = SequentialRule(votes=8, chunk=4, error=0.0)
    # Five equal votes of eight cannot be overtaken, but at a look of 4 three others could still tie or win.
    assert replayed(["a"] * 8, rule, 4) == (4, True)
    assert replayed(["a", "b", "b", "a", "b", "b", "b", "b"], rule, 4) == (8, True)
    assert replayed([None] * 8, rule, 4)[1]


def test_growth_asks_different_questions(tmp_path):
    lines = [json.loads(line) for line in Path(growth.questions(16, tmp_path)).read_text().splitlines()]
    assert len({line["problem"] for line in lines}) == 16
    assert all(np.isfinite(float(line["answer"])) for line in lines)


def test_a_worker_answers_in_turns_and_tells_its_last_words(tmp_path):
    script = tmp_path / "echo.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    if asked.get('repeat') == 2:\n"
        "        raise SystemExit('no third turn')\n"
        "    print(json.dumps({'seconds': 0.5, 'tokens': 7, **asked}), flush=True)\n"
    )
    with Worker([sys.executable, str(script)], {"votes": 3}, amount="tokens", opening={"hello": 1}) as worker:
        assert worker.opened["hello"] == 1
        run = worker(1)
        assert (run.amount, run.seconds, run.details) == (7, 0.5, {"repeat": 1, "votes": 3})
        with pytest.raises(RuntimeError, match="no third turn"):
            worker(2)
