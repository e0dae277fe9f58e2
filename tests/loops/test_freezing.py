"""Frozen parts keep their weights, frozen statistics their values."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from trainkit.errors import UserErrorException
from trainkit.loops.freezing import freeze, freeze_statistics, training_mode


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))


def test_freezing_takes_gradients_from_a_part() -> None:
    model = _model()
    freeze(model, "0")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    freeze(model)
    assert not any(p.requires_grad for p in model.parameters())


def test_an_unknown_part_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserErrorException, match="no part 'head'.*made of: 0, 1, 2"):
        freeze(_model(), "head")


def test_frozen_statistics_survive_training_copies_and_pickles() -> None:
    model = _model()
    freeze_statistics(model)
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        training_mode(each)
        assert each.training and each[2].training and not each[1].training
        before = each[1].running_mean.clone()
        each(torch.randn(2, 3, 8, 8))
        assert torch.equal(before, each[1].running_mean)
