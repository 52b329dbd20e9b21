"""The lab's machine with the article's cluster on it, brought up once by the same `pulumi up` as anyone's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.nodes import machine, runner, stack


@pytest.fixture(scope="session")
def article_cluster() -> Iterator[None]:
    """Up as long as the session lasts; a lab that runs already is used, and stays."""
    mine = machine.running() is None
    machine.up()
    stack.up()
    runner.mend()
    yield
    if mine:
        machine.down()
        stack.forget()
