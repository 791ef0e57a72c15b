import numpy as np
import pandas as pd
import pytest

from analysis.regime import DIFFERENCES, MEASURES, markdown, regime_table


def test_a_row_per_cell_with_intervals_where_there_are_replicates():
    measures = {title: [0.5, 0.7] for title in MEASURES}
    differences = {title: [0.1, -0.1] for title in DIFFERENCES}
    facts = {"name": "mix", "model": "mini-s", "task": "mix-34", "replicate": ["a", "b"]}
    two = pd.DataFrame({**facts, "cell": "c", **measures, **differences})
    one = two.head(1).assign(cell="d", task="mix-45")
    table = regime_table(pd.concat([two, one]))
    first = table[(table["task"] == "mix-34") & (table["measure"] == "trained avg")].iloc[0]
    # t(.975, 1) = 12.706, times the standard error .1.
    assert (first["n"], first["mean"]) == (2, pytest.approx(0.6))
    assert (first["low"], first["high"]) == pytest.approx((0.6 - 1.2706, 0.6 + 1.2706), abs=1e-3)
    assert table[table["task"] == "mix-45"]["low"].isna().all()
    *_, last = markdown(table).splitlines()
    assert (
        last
        == "| mix | mini-s | mix-45 | 1 | "
        + "0.500 | " * len(MEASURES)
        + "+0.100 | " * (len(DIFFERENCES) - 1)
        + "+0.100 |"
    )
    assert not np.isnan(table["mean"]).any()
