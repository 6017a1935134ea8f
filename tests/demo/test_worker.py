"""One worker: in order, within bounds, everyone's own, and alive whatever happens."""

import threading
import time

import pytest

from dianjing.demo.errors import INTERNAL_ERROR, OUT_OF_MEMORY, JobNotFoundError, QueueFullError, ShuttingDownError
from dianjing.demo.jobs import Cancelled, Done, Failed, Progress, Queued
from dianjing.demo.requests import TextToImageRequest, TextToVideoRequest


def ask(prompt="a cat", **settings):
    return TextToImageRequest(prompt=prompt, **settings)


def until(condition, timeout_s=10.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def busy(make_worker, counting):
    """A worker that stands still in its first job."""

    def make(**limits):
        worker = make_worker(**limits)
        counting.gate.clear()
        job = worker.submit(ask("first"), "ann")
        until(lambda: job.state == "running")
        return worker, job

    return make


def test_jobs_are_drawn_in_the_order_they_came(make_worker, counting):
    worker = make_worker()
    counting.gate.clear()
    jobs = [worker.submit(ask(f"number {i}"), "ann") for i in range(5)]
    counting.gate.set()
    results = [job.wait(10) for job in jobs]
    assert counting.began == [f"number {i}" for i in range(5)]
    assert [event.result.records[0].prompt for event in results] == counting.began


def test_a_job_tells_where_it_waits_and_how_far_it_is(busy, counting):
    worker, first = busy()
    second, third = worker.submit(ask("second"), "bob"), worker.submit(ask("third"), "cyd")
    assert (second.event, third.event) == (Queued(position=1), Queued(position=2))
    events = third.events()
    assert next(events) == Queued(position=2)
    counting.gate.set()
    heard = list(events)
    assert isinstance(heard[-1], Done)
    steps = [event.step for event in heard if isinstance(event, Progress)]
    assert steps == sorted(steps)
    assert first.state == second.state == "done"


def test_a_listener_without_news_hears_the_same_again(busy):
    _, job = busy()
    events = job.events(beat_s=0.01)
    assert next(events) == next(events) == job.event


def test_a_full_queue_refuses_and_says_its_length(busy, counting):
    worker, _ = busy(max_queue=3)
    for _ in range(3):
        worker.submit(ask(), "ann")
    with pytest.raises(QueueFullError, match=r"^3 requests are waiting"):
        worker.submit(ask(), "bob")
    counting.gate.set()
    until(lambda: worker.queue_length == 0)
    assert isinstance(worker.submit(ask(), "bob").wait(10), Done)


def test_one_owner_cannot_fill_the_queue(busy):
    worker, _ = busy(max_queue_per_owner=2)
    for _ in range(2):
        worker.submit(ask(), "ann")
    with pytest.raises(QueueFullError, match=r"^2 requests of yours"):
        worker.submit(ask(), "ann")
    assert worker.submit(ask(), "bob").event == Queued(position=3)


def test_what_costs_too_much_is_refused_before_it_runs(make_worker, counting):
    worker = make_worker(max_cost=64 * 64 * 10)
    with pytest.raises(ValueError, match="45,056 pixels x frames x steps; at most 40,960"):
        worker.submit(ask(num_inference_steps=11), "ann")
    with pytest.raises(ValueError, match="at most 40,960"):
        worker.submit(ask(num_inference_steps=5, num_images=3), "ann")
    assert isinstance(worker.submit(ask(num_inference_steps=10), "ann").wait(10), Done)
    assert counting.began == ["a cat"]


def test_a_picture_model_refuses_films_by_name(make_worker):
    with pytest.raises(ValueError, match="model counting draws pictures only"):
        make_worker().submit(TextToVideoRequest(prompt="a cat"), "ann")


def test_another_owner_can_neither_see_cancel_nor_delete_a_job(busy):
    worker, job = busy()
    for reach in (worker.get, worker.cancel, worker.delete):
        with pytest.raises(JobNotFoundError) as refused:
            reach(job.id, "bob")
        with pytest.raises(JobNotFoundError) as unknown:
            reach("picture_0", "ann")
        assert str(refused.value) == str(unknown.value)
    assert worker.get(job.id, "ann") is job
    assert not job.is_cancelled


def test_a_waiting_job_is_cancelled_at_once_and_the_others_move_up(busy):
    worker, _ = busy()
    second, third = worker.submit(ask("second"), "ann"), worker.submit(ask("third"), "ann")
    worker.cancel(second.id, "ann")
    assert second.event == Cancelled()
    assert third.event == Queued(position=1)


def test_a_running_job_stops_within_one_step(busy, counting):
    worker, job = busy()
    worker.cancel(job.id, "ann")
    before = counting.steps
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert counting.steps - before <= 1
    assert not (worker.files.root / job.id).exists()


def test_a_listener_that_leaves_frees_the_slot_within_two_steps(busy, counting):
    worker, job = busy()
    following = worker.follow(job)
    next(following)
    waiting = worker.submit(ask("next"), "bob")
    before = counting.steps
    following.close()
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert counting.steps - before <= 2
    assert isinstance(waiting.wait(10), Done)


def test_a_listener_that_stays_to_the_end_gets_the_result(make_worker):
    worker = make_worker()
    job = worker.submit(ask(), "ann")
    *_, last = worker.follow(job)
    assert isinstance(last, Done)
    assert last.result.files[0].read_text() == "a cat"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes"
        ),
    ],
)
def test_out_of_memory_ends_that_job_only_and_says_what_to_change(make_worker, counting, error):
    worker = make_worker()
    counting.error = error
    assert worker.submit(ask(), "ann").wait(10) == Failed(error=OUT_OF_MEMORY, cause="memory")
    assert counting.freed == 1
    counting.error = None
    assert isinstance(worker.submit(ask(), "ann").wait(10), Done)


def test_a_bug_ends_that_job_only_and_shows_nothing_of_the_server(make_worker, counting, caplog):
    worker = make_worker()
    counting.error = KeyError("/home/someone/secret")
    assert worker.submit(ask(), "ann").wait(10) == Failed(error=INTERNAL_ERROR, cause="server")
    assert "secret" in caplog.text
    counting.error = None
    assert isinstance(worker.submit(ask(), "ann").wait(10), Done)


def test_an_error_for_the_user_names_no_folder_of_the_server(make_worker, counting):
    counting.error = ValueError("/srv/models/own/config.json is not to be read; give another")
    assert make_worker().submit(ask(), "ann").wait(10) == Failed(error="... is not to be read; give another")


def test_results_expire_with_their_files(make_worker):
    worker = make_worker(keep_s=0.2)
    job = worker.submit(ask(), "ann")
    path = job.wait(10).result.files[0]
    assert worker.get(job.id, "ann") is job
    time.sleep(0.25)
    with pytest.raises(JobNotFoundError):
        worker.get(job.id, "ann")
    assert not path.exists()


def test_the_oldest_results_of_an_owner_make_room(make_worker):
    worker = make_worker(max_jobs_kept_per_owner=2)
    other = worker.submit(ask(), "bob")
    other.wait(10)
    jobs = [worker.submit(ask(), "ann") for _ in range(4)]
    for job in jobs:
        job.wait(10)
    with pytest.raises(JobNotFoundError):
        worker.get(jobs[0].id, "ann")
    assert worker.get(jobs[3].id, "ann") is jobs[3]
    assert worker.get(other.id, "bob") is other


def test_a_deleted_job_leaves_nothing(make_worker):
    worker = make_worker()
    job = worker.submit(ask(), "ann")
    path = job.wait(10).result.files[0]
    worker.delete(job.id, "ann")
    assert not path.parent.exists()
    with pytest.raises(JobNotFoundError):
        worker.get(job.id, "ann")


def test_a_job_deleted_while_it_runs_leaves_nothing(busy, counting):
    worker, job = busy()
    worker.delete(job.id, "ann")
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert not (worker.files.root / job.id).exists()


def test_closing_cancels_everything_and_removes_the_files(busy, counting):
    worker, job = busy()
    waiting = worker.submit(ask(), "ann")
    closing = threading.Thread(target=worker.close)
    closing.start()
    until(lambda: job.is_cancelled)
    counting.gate.set()
    closing.join(10)
    assert job.state == waiting.state == "cancelled"
    assert not worker.files.root.exists()
    assert not worker.is_alive
    with pytest.raises(ShuttingDownError):
        worker.submit(ask(), "ann")


def test_what_happened_is_counted(make_worker, counting):
    worker = make_worker(max_cost=64 * 64 * 10)
    worker.submit(ask(), "ann").wait(10)
    counting.error = MemoryError()
    worker.submit(ask(), "ann").wait(10)
    with pytest.raises(ValueError, match="at most"):
        worker.submit(ask(num_inference_steps=11), "ann")
    text = worker.metrics.text().decode()
    for end in ("done", "failed", "refused"):
        assert f'dianjing_requests_total{{end="{end}",kind="picture"}} 1.0' in text
    assert 'dianjing_step_seconds_count{kind="picture"} 4.0' in text
    assert "dianjing_queue_length 0.0" in text
