"""The lab's machine with the article's cluster on it, brought up once by the same `pulumi up` as anyone's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.nodes import machine, runner, stack
from lab.phases import Phases
from tests.within import turned


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is quick comes first; of the rest, what shares a configuration stands together; what needs a cluster's programs is last.

    With $WITHIN both parts begin elsewhere at every commit, so that too little time leaves out others.
    """

    def arranged(item: pytest.Item) -> str:
        arrange = item.callspec.params["experiment"].arrange  # type: ignore[attr-defined]
        return f"{arrange.__module__}.{arrange.__qualname__}" if arrange else ""

    cluster = sorted((item for item in items if item.get_closest_marker("cluster")), key=arranged)
    plain = [item for item in items if not item.get_closest_marker("cluster")]
    quick = [item for item in plain if not item.get_closest_marker("deployed")]
    rest = sorted((item for item in plain if item.get_closest_marker("deployed")), key=arranged)
    items[:] = [*turned(quick), *turned(rest), *cluster]


@pytest.fixture(scope="session")
def article_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """Up as long as the session lasts; a lab that runs already is used, and stays. Says at the end what every row came to.

    It has a cluster's own programs when one of the experiments needs them.
    """
    phases = Phases()
    mine = machine.running() is None
    with phases("lab machine and nodes"):
        machine.up(cluster=any(item.callspec.params["experiment"].cluster for item in request.session.items))  # type: ignore[attr-defined]
    with phases("pulumi up, and every server seen"):
        runner.mend()
    yield
    if mine:
        with phases("lab machine down"):
            machine.down()
            stack.forget()
    else:
        runner.restore()


@pytest.fixture(scope="session")
def table(article_cluster: None) -> Iterator[list[str]]:
    """The names of the rows that were run; printed with their results at the end."""
    names: list[str] = []
    yield names
    print(f"\n{runner.table(names)}")
