"""Pieces of work side by side."""

import contextlib
import threading
import time

import pytest
import torch

from styleforge.engine.workers import Workers


@pytest.fixture(autouse=True)
def _six_cores(cores):
    cores(6)


def test_each_worker_has_its_share_of_the_cores_and_others_keep_all():
    with Workers(3) as workers:
        assert set(workers.each(lambda _: (torch.get_num_threads(), torch.is_grad_enabled()), range(9))) == {(2, False)}
        seen = [torch.get_num_threads()]
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert [*seen, torch.get_num_threads()] == [6, 6, 6]


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_order_and_few_wait(count):
    taken, begun, ahead = 0, 0, []

    def work(number):
        nonlocal begun
        begun += 1
        ahead.append(begun - taken)
        time.sleep(0.002 * (number % 3))
        return number

    with Workers(count) as workers:
        for number, made in enumerate(workers.each(work, range(30))):
            assert made == number
            taken += 1
    assert max(ahead) <= count + 1


def test_several_work_at_once():
    both = threading.Barrier(2, timeout=60)
    with Workers(2) as workers:
        assert sorted(workers.each(lambda _: both.wait(), range(2))) == [0, 1]


def test_an_error_comes_out_and_ends_the_rest():
    done = []

    def work(number):
        if number == 2:
            raise ZeroDivisionError
        done.append(number)

    with pytest.raises(ZeroDivisionError), Workers(2) as workers:
        list(workers.each(work, range(1000)))
    assert len(done) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tile")]


def test_each_piece_of_work_enters_what_belongs_to_its_thread():
    entered = []

    @contextlib.contextmanager
    def around():
        entered.append(threading.get_ident())
        yield

    with Workers(2, around) as workers:
        seen = list(workers.each(lambda _: threading.get_ident(), range(5)))
    assert sorted(entered) == sorted(seen) and threading.get_ident() not in seen


def test_where_no_thread_can_be_begun_nobody_waits_for_it(monkeypatch):
    start, begun = threading.Thread.start, []

    def limited(thread):
        if begun and thread.name.startswith("tile"):
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="new thread"), Workers(3):
        pass
    begun[0].join(60)
    assert not begun[0].is_alive() and torch.get_num_threads() == 6
    seen = []
    monkeypatch.undo()
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [6], "what others begin would have the share of a worker"
