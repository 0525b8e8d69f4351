"""SAPE (eq 1, 2): mask embedding, label distribution, prompt."""

from __future__ import annotations

import pytest
import torch

from sisrm.errors import ParameterError
from sisrm.labels import CLASS_NAMES, index_of
from sisrm.sape import SAPE, Label, choose_labels, prompt_of, segmenter_input, user_labels
from sisrm.semantics import join_labels


@pytest.fixture
def sape():
    torch.manual_seed(0)
    return SAPE(embedding_channels=8, cross_attention_dim=16, grid=2)


def test_names_are_150_and_unique():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 150
    assert index_of("Sky ") == 2
    with pytest.raises(ParameterError, match="labels"):
        index_of("unicorn")


def test_mask_encoder_is_equation_1(sape):
    probabilities = torch.rand(1, 150, 6, 6).softmax(1)
    first, _, last = sape.mask_encoder
    hidden = torch.nn.functional.conv2d(probabilities, first.weight, first.bias, padding=1).relu()
    expected = torch.nn.functional.conv2d(hidden, last.weight, last.bias)
    assert first.kernel_size == (3, 3) and last.kernel_size == (1, 1)
    torch.testing.assert_close(sape.encode_mask(probabilities), expected)
    assert expected.shape[-2:] == probabilities.shape[-2:]  # E_m keeps its layout


def test_label_generator_is_equation_2(sape):
    mask_embedding = torch.randn(2, 8, 5, 7)
    expected = mask_embedding.mean((2, 3)) @ sape.label_generator.weight.T + sape.label_generator.bias
    torch.testing.assert_close(sape.label_logits(mask_embedding), expected)


def test_anchor_count_does_not_depend_on_the_size_and_keeps_places(sape):
    for size in ((4, 4), (9, 17), (64, 32)):
        assert sape.tokens(torch.randn(1, 8, *size)).shape == (1, 4, 16)
    left = torch.zeros(1, 8, 4, 4)
    left[..., :2] = 1
    changed = (sape.tokens(left) - sape.tokens(torch.zeros_like(left))).abs().sum(-1)[0] > 1e-6
    assert changed.tolist() == [True, False, True, False]


def test_top_k_orders_by_score_and_never_returns_nothing():
    scores = torch.zeros(150)
    scores[[2, 4, 1]] = torch.tensor([0.5, 0.3, 0.2])
    labels = choose_labels(scores, 3)
    assert [label.name for label in labels] == ["sky", "tree", "building"]
    assert [round(label.score, 3) for label in labels] == [0.5, 0.3, 0.2]
    assert prompt_of(labels) == "sky, tree, building"
    assert not any(label.unsure for label in labels)


def test_labels_below_the_floor_are_left_out_but_the_first_which_says_that_it_is_unsure():
    scores = torch.zeros(150)
    scores[[2, 4, 1]] = torch.tensor([0.5, 0.3, 0.2])
    assert [(label.name, label.unsure) for label in choose_labels(scores, 3, floor=0.25)] == [
        ("sky", False),
        ("tree", False),
    ]
    assert [(label.name, label.unsure) for label in choose_labels(scores, 3, floor=0.9)] == [("sky", True)]


def test_a_persons_words_come_first_and_nothing_unsure_is_added():
    words, sure, unsure = (
        [Label("sky", 2, None)],
        [Label("sky", 2, 0.5), Label("tree", 4, 0.3)],
        [Label("sea", 26, 0.05, True)],
    )
    assert join_labels([], unsure, extend=True) == unsure and join_labels(words, sure, extend=False) == words
    assert [label.name for label in join_labels(words, sure, extend=True)] == ["sky", "tree"]
    assert join_labels(words, unsure, extend=True) == words


def test_user_labels_are_checked():
    assert user_labels(["SKY", "sky", "tree"]) == [Label("sky", 2, None), Label("tree", 4, None)]
    assert user_labels(["old castle"], free_text=True) == [Label("old castle", None, None)]
    for words in (["unicorn"], [""], [3], ["x" * 100]):
        with pytest.raises(ParameterError, match="labels"):
            user_labels(words)


@pytest.mark.parametrize("size, expected", [((128, 128), (256, 256)), ((20, 31), (256, 384)), ((16, 400), (32, 1024))])
def test_segmenter_reads_at_its_own_size(size, expected):
    assert segmenter_input(torch.rand(1, 3, *size), 256).shape[-2:] == expected
