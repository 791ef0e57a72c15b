import numpy as np
import pandas as pd
import pytest

from analysis.phase import LABELS, OVER_VOTE, draw, exposed_share, misreaders, outcome, phase_table
from ttrl_repro.errors import UserError


def test_outcomes():
    up, down, none = np.array([0.03, 0.2]), np.array([-0.03, -0.2]), np.array([0.0, 0.1])
    assert outcome(up, none) == "gain"
    assert outcome(none, none) == "stall"  # one replicate did not pass the vote
    assert outcome(down, down) == "collapse"
    assert outcome(down, none) == "stall"  # below the vote, but the labels hold: no collapse of what is taught


def test_the_table_has_a_row_per_cell_with_intervals():
    runs = pd.DataFrame(
        {
            "pi": [0.1, 0.1, 0.6, 0.6],
            "exposed": [0.9, 0.9, 0.9, 0.9],
            OVER_VOTE: [0.1, 0.2, -0.3, -0.1],
            LABELS: [0.1, 0.1, -0.3, -0.1],
        }
    )
    table = phase_table(runs)
    assert table["outcome"].tolist() == ["gain", "collapse"]
    assert table[OVER_VOTE].tolist() == pytest.approx([0.15, -0.2])
    # t(.975, 1) = 12.706, times .1 / 2 for two values .1 apart.
    assert table[f"{OVER_VOTE}, high"].tolist() == pytest.approx([0.15 + 12.706 * 0.05, -0.2 + 12.706 * 0.1], abs=1e-3)
    assert table["n"].tolist() == [2, 2]
    assert len(draw(table, "title").axes) == 2


def test_places_in_the_diagram_come_from_recipes():
    assert exposed_share("phase-33") == pytest.approx(1 / 3)
    assert exposed_share("phase-90") == pytest.approx(0.9)
    assert misreaders("mini-xs-pi40") == 0.4
    with pytest.raises(UserError, match="depends on the number of terms"):
        misreaders("mini-xs")
