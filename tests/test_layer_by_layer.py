"""Layers run over several batches one after the other give what the model gives batch by batch."""

from functools import partial

import pytest
import torch
from torch import nn

from sklearn_irt.layer_by_layer import in_groups, run_layer_by_layer


class Layer(nn.Module):
    """Adds what the model hands it, and notes that it ran."""

    def __init__(self, number, order):
        super().__init__()
        self.number, self.order = number, order

    def forward(self, hidden_states, added, factor=1):
        self.order.append((self.number, int(added)))
        return factor * hidden_states + self.number + added


class Model(nn.Module):
    def __init__(self, between=None):
        super().__init__()
        self.order = []
        self.layers = nn.ModuleList(Layer(number, self.order) for number in range(3))
        self.between = between

    def forward(self, states, added):
        for layer in self.layers:
            states = layer(states, added, factor=2)
            if self.between is not None:
                states = self.between(states)
        return states


def runs_of(model):
    return [partial(model, torch.full((2,), float(start)), added) for start, added in ((1, 10), (5, 20))]


def test_each_layer_runs_on_all_batches_before_the_next_one():
    model = Model()
    expected = [run() for run in runs_of(model)]
    model.order.clear()
    states = run_layer_by_layer(model.layers, runs_of(model))
    assert model.order == [(0, 10), (0, 20), (1, 10), (1, 20), (2, 10), (2, 20)]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(states, expected, strict=True))


def test_a_model_that_does_something_between_its_layers_runs_as_it_is():
    model = Model(between=lambda states: states - 3)
    expected = [run() for run in runs_of(model)]
    states = run_layer_by_layer(model.layers, runs_of(model))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(states, expected, strict=True))


def test_a_model_that_wants_more_than_states_of_its_layers_runs_as_it_is():
    class Both(Model):
        def forward(self, states, added):
            for layer in self.layers:
                states, _ = layer(states, added)
            return states

    class AlsoGivesWeights(Layer):
        def forward(self, hidden_states, added, factor=1):
            return super().forward(hidden_states, added, factor), None

    model = Both()
    model.layers = nn.ModuleList(AlsoGivesWeights(number, model.order) for number in range(3))
    expected = [run() for run in runs_of(model)]
    states = run_layer_by_layer(model.layers, runs_of(model))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(states, expected, strict=True))


def test_layers_are_themselves_again_after_an_error():
    model = Model(between=lambda states: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_layer_by_layer(model.layers, runs_of(model))
    assert not any("forward" in layer.__dict__ for layer in model.layers)


def test_groups_hold_every_batch_once_in_order():
    groups = list(in_groups(range(40)))
    assert [batch for group in groups for batch in group] == list(range(40))
    assert len(groups) == 3
