"""Imports without garbage collection: it is paused inside, on again afterwards, and what was there is left alone."""

import gc

import pytest

from sisrm.startup import swift_imports


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    gc.enable()
    gc.unfreeze()


def test_collection_is_paused_inside_and_what_came_is_frozen():
    gc.unfreeze()
    with swift_imports():
        assert not gc.isenabled()
        with swift_imports():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 1000


def test_an_error_leaves_collection_on():
    with pytest.raises(ImportError), swift_imports():
        raise ImportError("missing")
    assert gc.isenabled()


def test_a_program_without_collection_keeps_it_off():
    gc.disable()
    gc.unfreeze()
    with swift_imports():
        pass
    assert not gc.isenabled() and gc.get_freeze_count() == 0
