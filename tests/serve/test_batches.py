"""Requests that are answered together: none lost, none mixed, whoever leaves."""

from __future__ import annotations

import anyio
import pytest

from corrsteer.serve.batches import Batches


class Asked:
    """Answers a number with its square, and keeps what it was asked together."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []

    def __call__(self, settings: str, questions: list[int]) -> list[int]:
        self.batches.append((settings, questions))
        if 13 in questions:
            raise ValueError("thirteen")
        return [n * n for n in questions]


def all_asked(batches: Batches, some) -> dict[int, object]:
    found: dict[int, object] = {}

    async def one(n: int, settings: str) -> None:
        try:
            found[n] = await batches.ask(settings, n)
        except ValueError as error:
            found[n] = str(error)

    async def all_of_them() -> None:
        async with anyio.create_task_group() as tasks:
            for n, settings in some:
                tasks.start_soon(one, n, settings)

    anyio.run(all_of_them)
    return found


def test_requests_that_wait_are_answered_together_in_batches_of_a_size():
    asked = Asked()
    found = all_asked(Batches(asked, 8), [(n, "a") for n in range(20) if n != 13])
    assert found == {n: n * n for n in range(20) if n != 13}
    assert [len(questions) for _, questions in asked.batches] == [8, 8, 3]


def test_those_with_other_settings_are_answered_apart():
    asked = Asked()
    found = all_asked(Batches(asked, 8), [(n, "ab"[n % 2]) for n in range(6)])
    assert found == {n: n * n for n in range(6)}
    assert sorted(asked.batches) == [("a", [0, 2, 4]), ("b", [1, 3, 5])]


def test_everyone_of_a_batch_hears_of_its_error_and_nobody_else():
    found = all_asked(Batches(Asked(), 4), [(n, "a") for n in (12, 13, 14, 15, 16)])
    assert found == {**dict.fromkeys((12, 13, 14, 15), "thirteen"), 16: 256}


@pytest.mark.parametrize("leaves", [0, 1, 2])
def test_who_leaves_is_left_out_and_the_rest_is_answered(leaves, monkeypatch):
    monkeypatch.setattr("corrsteer.serve.batches.MOMENT", 0.5)
    asked, found = Asked(), {}
    batches: Batches = Batches(asked, 8)

    async def one(n: int) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            found[n] = await batches.ask("a", n)

    async def all_of_them() -> None:
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(one, n)
            await anyio.sleep(0.01)  # all of them wait, the first for the moment to pass
            scopes[leaves].cancel()

    scopes: list[anyio.CancelScope] = []
    anyio.run(all_of_them)
    assert found == {n: n * n for n in range(3) if n != leaves}
    assert asked.batches == [("a", [n for n in range(3) if n != leaves])]
