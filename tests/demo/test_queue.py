"""One queue: in order, within bounds, everyone's own, and alive whatever happens."""

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
def busy(make_queue, counting):
    """A queue that stands still in its first job."""

    def make(**limits):
        queue = make_queue(**limits)
        counting.gate.clear()
        job = queue.submit(ask("first"), "ann")
        until(lambda: job.state == "running")
        return queue, job

    return make


def test_jobs_are_drawn_in_the_order_they_came(make_queue, counting):
    queue = make_queue()
    counting.gate.clear()
    jobs = [queue.submit(ask(f"number {i}"), "ann") for i in range(5)]
    counting.gate.set()
    results = [job.wait(10) for job in jobs]
    assert counting.began == [f"number {i}" for i in range(5)]
    assert [event.result.metadata[0].prompt for event in results] == counting.began


def test_a_job_tells_where_it_waits_and_how_far_it_is(busy, counting):
    queue, first = busy()
    second, third = queue.submit(ask("second"), "bob"), queue.submit(ask("third"), "cyd")
    assert (second.last_event, third.last_event) == (Queued(position=1), Queued(position=2))
    events = third.stream_events()
    assert next(events) == Queued(position=2)
    counting.gate.set()
    heard = list(events)
    assert isinstance(heard[-1], Done)
    steps = [event.step for event in heard if isinstance(event, Progress)]
    assert steps == sorted(steps)
    assert first.state == second.state == "done"


def test_a_listener_without_news_hears_the_same_again(busy):
    _, job = busy()
    events = job.stream_events(heartbeat_s=0.01)
    assert next(events) == next(events) == job.last_event


def test_a_full_queue_refuses_and_says_its_length(busy, counting):
    queue, _ = busy(max_queue_length=3)
    for _ in range(3):
        queue.submit(ask(), "ann")
    with pytest.raises(QueueFullError, match=r"^3 requests are waiting"):
        queue.submit(ask(), "bob")
    counting.gate.set()
    until(lambda: queue.queue_length == 0)
    assert isinstance(queue.submit(ask(), "bob").wait(10), Done)


def test_one_owner_cannot_fill_the_queue(busy):
    queue, _ = busy(max_queue_length_per_owner=2)
    for _ in range(2):
        queue.submit(ask(), "ann")
    with pytest.raises(QueueFullError, match=r"^2 requests of yours"):
        queue.submit(ask(), "ann")
    assert queue.submit(ask(), "bob").last_event == Queued(position=3)


def test_what_costs_too_much_is_refused_before_it_runs(make_queue, counting):
    queue = make_queue(max_cost=64 * 64 * 10)
    with pytest.raises(ValueError, match="45,056 pixels x frames x steps; at most 40,960"):
        queue.submit(ask(num_inference_steps=11), "ann")
    with pytest.raises(ValueError, match="at most 40,960"):
        queue.submit(ask(num_inference_steps=5, num_images=3), "ann")
    assert isinstance(queue.submit(ask(num_inference_steps=10), "ann").wait(10), Done)
    assert counting.began == ["a cat"]


def test_a_picture_model_refuses_films_by_name(make_queue):
    with pytest.raises(ValueError, match="model counting draws pictures only"):
        make_queue().submit(TextToVideoRequest(prompt="a cat"), "ann")


def test_another_owner_can_neither_see_cancel_nor_delete_a_job(busy):
    queue, job = busy()
    for reach in (queue.get, queue.cancel, queue.delete):
        with pytest.raises(JobNotFoundError) as refused:
            reach(job.id, "bob")
        with pytest.raises(JobNotFoundError) as unknown:
            reach("image_0", "ann")
        assert str(refused.value) == str(unknown.value)
    assert queue.get(job.id, "ann") is job
    assert not job.is_cancel_requested


def test_a_waiting_job_is_cancelled_at_once_and_the_others_move_up(busy):
    queue, _ = busy()
    second, third = queue.submit(ask("second"), "ann"), queue.submit(ask("third"), "ann")
    queue.cancel(second.id, "ann")
    assert second.last_event == Cancelled()
    assert third.last_event == Queued(position=1)


def test_a_running_job_stops_within_one_step(busy, counting):
    queue, job = busy()
    queue.cancel(job.id, "ann")
    before = counting.steps
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert counting.steps - before <= 1
    assert not (queue.results.root / job.id).exists()


def test_a_listener_that_leaves_frees_the_slot_within_two_steps(busy, counting):
    queue, job = busy()
    following = queue.stream_events(job)
    next(following)
    waiting = queue.submit(ask("next"), "bob")
    before = counting.steps
    following.close()
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert counting.steps - before <= 2
    assert isinstance(waiting.wait(10), Done)


def test_a_listener_that_stays_to_the_end_gets_the_result(make_queue):
    queue = make_queue()
    job = queue.submit(ask(), "ann")
    *_, last = queue.stream_events(job)
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
def test_out_of_memory_ends_that_job_only_and_says_what_to_change(make_queue, counting, error):
    queue = make_queue()
    counting.error = error
    assert queue.submit(ask(), "ann").wait(10) == Failed(error=OUT_OF_MEMORY, cause="memory")
    assert counting.freed == 1
    counting.error = None
    assert isinstance(queue.submit(ask(), "ann").wait(10), Done)


def test_a_bug_ends_that_job_only_and_shows_nothing_of_the_server(make_queue, counting, caplog):
    queue = make_queue()
    counting.error = KeyError("/home/someone/secret")
    assert queue.submit(ask(), "ann").wait(10) == Failed(error=INTERNAL_ERROR, cause="server")
    assert "secret" in caplog.text
    counting.error = None
    assert isinstance(queue.submit(ask(), "ann").wait(10), Done)


def test_an_error_for_the_user_names_no_folder_of_the_server(make_queue, counting):
    counting.error = ValueError("/srv/models/own/config.json is not to be read; give another")
    assert make_queue().submit(ask(), "ann").wait(10) == Failed(error="... is not to be read; give another")


def test_results_expire_with_their_files(make_queue):
    queue = make_queue(result_ttl_s=0.2)
    job = queue.submit(ask(), "ann")
    path = job.wait(10).result.files[0]
    assert queue.get(job.id, "ann") is job
    time.sleep(0.25)
    with pytest.raises(JobNotFoundError):
        queue.get(job.id, "ann")
    assert not path.exists()


def test_the_oldest_results_of_an_owner_make_room(make_queue):
    queue = make_queue(max_finished_jobs_per_owner=2)
    other = queue.submit(ask(), "bob")
    other.wait(10)
    jobs = [queue.submit(ask(), "ann") for _ in range(4)]
    for job in jobs:
        job.wait(10)
    with pytest.raises(JobNotFoundError):
        queue.get(jobs[0].id, "ann")
    assert queue.get(jobs[3].id, "ann") is jobs[3]
    assert queue.get(other.id, "bob") is other


def test_a_deleted_job_leaves_nothing(make_queue):
    queue = make_queue()
    job = queue.submit(ask(), "ann")
    path = job.wait(10).result.files[0]
    queue.delete(job.id, "ann")
    assert not path.parent.exists()
    with pytest.raises(JobNotFoundError):
        queue.get(job.id, "ann")


def test_a_job_deleted_while_it_runs_leaves_nothing(busy, counting):
    queue, job = busy()
    queue.delete(job.id, "ann")
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert not (queue.results.root / job.id).exists()


def test_closing_cancels_everything_and_removes_the_files(busy, counting):
    queue, job = busy()
    waiting = queue.submit(ask(), "ann")
    closing = threading.Thread(target=queue.close)
    closing.start()
    until(lambda: job.is_cancel_requested)
    counting.gate.set()
    closing.join(10)
    assert job.state == waiting.state == "cancelled"
    assert not queue.results.root.exists()
    assert not queue.is_alive
    with pytest.raises(ShuttingDownError):
        queue.submit(ask(), "ann")


def test_what_happened_is_counted(make_queue, counting):
    queue = make_queue(max_cost=64 * 64 * 10)
    queue.submit(ask(), "ann").wait(10)
    counting.error = MemoryError()
    queue.submit(ask(), "ann").wait(10)
    with pytest.raises(ValueError, match="at most"):
        queue.submit(ask(num_inference_steps=11), "ann")
    text = queue.metrics.to_prometheus_text().decode()
    for end in ("done", "failed", "refused"):
        assert f'dianjing_requests_total{{end="{end}",kind="image"}} 1.0' in text
    assert 'dianjing_step_seconds_count{kind="image"} 4.0' in text
    assert "dianjing_queue_length 0.0" in text
