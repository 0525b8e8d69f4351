"""Coring: faint texture goes, detail stays."""

from __future__ import annotations

import torch

from sisrm.coring import core_detail


def test_faint_texture_goes_and_strong_detail_stays():
    reference = torch.full((1, 3, 64, 64), 0.5)
    faint, strong = torch.zeros_like(reference), torch.zeros_like(reference)
    faint[..., :, 0:24:4] = 0.004
    strong[..., 32, 40:] = 0.3
    result = core_detail(reference + faint + strong, reference, 0.006)
    assert torch.equal(result[..., :20], reference[..., :20])
    assert (result - reference - strong)[..., 32, 48:].abs().max() < 0.02


def test_nothing_changes_without_it_or_without_detail():
    result, reference = torch.rand(2, 3, 20, 24), torch.rand(2, 3, 20, 24)
    torch.testing.assert_close(core_detail(result, reference, 0.0), result)
    assert torch.equal(core_detail(reference, reference, 0.01), reference)
