"""The examples in docstrings are run."""

import doctest
import importlib
import pkgutil

import pytest

import dal_core

MODULES = ["dal_core", *(module.name for module in pkgutil.walk_packages(dal_core.__path__, "dal_core."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_show_what_they_say(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) > 40
