"""ConvergenceDisplay names each fit in its legend as the user named it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sklearn_irt.convergence_display import ConvergenceDisplay, FitCurve


@pytest.mark.parametrize("name", ["$5 against $6", "$x_$"])
def test_a_name_is_written_to_the_letter(name):
    steps = np.array([1.0, 2.0])
    curve = FitCurve(steps, steps, np.array([2]), np.array([2.0]), {})
    display = ConvergenceDisplay(curves={name: curve}).plot()
    display.figure_.canvas.draw()
    (text,) = display.ax_.get_legend().get_texts()
    assert text.get_text() == name
    assert not text.get_parse_math()
    plt.close(display.figure_)
