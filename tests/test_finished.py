"""Example photos: the first click computes, the next ones do not; a visitor's own photo is never kept."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from conftest import tiny_pipe
from PIL import Image

from sisrm.images import Photo, read_photo
from sisrm.ui.finished import FinishedExamples
from sisrm.ui.handlers import Handlers


@pytest.fixture
def made(garden, tmp_path):
    """(the examples, the photo of one, a function that makes a result of it)."""
    handlers = Handlers(tiny_pipe(), {})
    examples, photo = FinishedExamples([garden], most=2), read_photo(garden)

    def make(settings):
        folder = tmp_path / f"seed{settings.seed}"
        folder.mkdir(exist_ok=True)
        done = handlers.upscale(photo, settings, folder, states=True)
        examples.keep(photo, settings, done)
        return done

    return examples, photo, handlers.defaults, make


def test_a_result_is_kept_by_photo_and_settings(made):
    examples, photo, settings, make = made
    assert examples.get(photo, settings) is None
    done = make(settings)
    assert examples.get(photo, settings) is done
    assert examples.get(photo, replace(settings, seed=1)) is None
    assert examples.get(photo, replace(settings, muted_labels=("sky",))) is None
    make(replace(settings, seed=1))
    assert examples.get(photo, settings) is done  # wanted last, so it stays
    make(replace(settings, seed=2))
    assert examples.get(photo, settings) is done
    assert examples.get(photo, replace(settings, seed=1)) is None


def test_what_is_looked_at_again_stays_on_the_disk_and_what_is_gone_is_made_again(made):
    examples, photo, settings, make = made
    done = make(settings)
    for path in done.result.parent.iterdir():
        os.utime(path, (1, 1))
    assert examples.get(photo, settings) is done
    assert all(path.stat().st_mtime > time.time() - 60 for path in (done.result, done.before, *done.states.values()))
    done.before.unlink()
    assert examples.get(photo, settings) is None


def test_no_photo_of_a_visitor_is_kept(made, tmp_path):
    examples, photo, settings, make = made
    done = make(settings)
    for own in (
        Photo(photo.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        Photo(photo.image, alpha=Image.new("L", photo.image.size, 9)),
        Photo(photo.image, notices=("first_frame",)),
    ):
        examples.keep(own, settings, done)
        assert examples.get(own, settings) is None
