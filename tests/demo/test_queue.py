"""The job queue: in order, within limits, separate for each owner, and alive after any error."""

import errno
import threading

import pytest

from dianjing.demo.errors import JobNotFoundError, QueueFullError, ShuttingDownError, get_cause
from dianjing.demo.jobs import Cancelled, Done, Failed, Progress, Queued
from dianjing.demo.requests import TextToImageRequest, TextToVideoRequest
from dianjing.errors import DianjingError


def make_request(prompt="a cat", **settings):
    return TextToImageRequest(prompt=prompt, **settings)


def wait_for_event(job, kind):
    """The first event of a kind."""
    return next(event for event in job.stream_events() if isinstance(event, kind))


@pytest.fixture
def make_busy_queue(make_queue, counting):
    """Make a queue whose first job waits in its first step."""

    def make(**limits):
        queue = make_queue(**limits)
        counting.gate.clear()
        job = queue.submit(make_request("first"), "ann")
        wait_for_event(job, Progress)
        return queue, job

    return make


def test_jobs_run_in_the_order_of_their_arrival(make_queue, counting):
    queue = make_queue()
    counting.gate.clear()
    jobs = [queue.submit(make_request(f"number {i}"), "ann") for i in range(5)]
    counting.gate.set()
    results = [job.wait(10) for job in jobs]
    assert counting.started_prompts == [f"number {i}" for i in range(5)]
    assert [event.result.metadata[0].prompt for event in results] == counting.started_prompts


def test_a_job_publishes_its_position_and_its_progress(make_busy_queue, counting):
    queue, first = make_busy_queue()
    second, third = queue.submit(make_request("second"), "bob"), queue.submit(make_request("third"), "cyd")
    assert (second.last_event, third.last_event) == (Queued(position=1), Queued(position=2))
    stream = third.stream_events()
    assert next(stream) == Queued(position=2)
    counting.gate.set()
    events = list(stream)
    assert isinstance(events[-1], Done)
    steps = [event.step for event in events if isinstance(event, Progress)]
    assert steps == sorted(steps)
    assert first.state == second.state == "done"


def test_without_news_the_last_event_is_repeated(make_busy_queue):
    _, job = make_busy_queue()
    events = job.stream_events(heartbeat_s=0.01)
    assert next(events) == next(events) == job.last_event


def test_a_full_queue_refuses_with_its_length(make_busy_queue, counting):
    queue, first = make_busy_queue(max_queue_length=3)
    jobs = [queue.submit(make_request(), "ann") for _ in range(3)]
    with pytest.raises(QueueFullError, match=r"^3 requests are waiting"):
        queue.submit(make_request(), "bob")
    counting.gate.set()
    for job in (first, *jobs):
        job.wait(10)
    assert isinstance(queue.submit(make_request(), "bob").wait(10), Done)


def test_one_owner_cannot_fill_the_queue(make_busy_queue):
    queue, _ = make_busy_queue(max_queue_length_per_owner=2)
    for _ in range(2):
        queue.submit(make_request(), "ann")
    with pytest.raises(QueueFullError, match=r"^2 of your requests"):
        queue.submit(make_request(), "ann")
    assert queue.submit(make_request(), "bob").last_event == Queued(position=3)


def test_a_request_that_would_take_too_long_is_refused_before_it_runs(make_queue, counting):
    queue = make_queue(max_run_s=10)
    with pytest.raises(ValueError, match=r"would take about 15 s here; at most 10 s .* trained for 64 x 64") as refused:
        queue.submit(make_request(num_inference_steps=11), "ann")
    assert "15 秒" in refused.value.render("zh")
    with pytest.raises(ValueError, match="would take about 20 s here"):
        queue.submit(make_request(num_inference_steps=5, num_images=4), "ann")
    job = queue.submit(make_request(num_inference_steps=10), "ann")
    assert job.predicted_s == 10
    assert isinstance(job.wait(10), Done)
    assert counting.started_prompts == ["a cat"]


def test_by_default_the_limit_is_five_minutes_but_never_below_what_the_model_itself_needs(make_queue, counting):
    assert make_queue().get_max_run_s() == 300
    slow = make_queue()
    counting.predict_s = lambda request: 1000.0
    assert slow.get_max_run_s() == 15_000
    assert isinstance(slow.submit(make_request(), "ann").wait(10), Done)


def test_a_size_that_the_model_was_not_trained_for_is_announced(make_queue, counting):
    queue = make_queue()
    assert queue.submit(make_request(), "ann").warnings == ()
    (warning,) = queue.submit(make_request(width=128, height=64), "ann").warnings
    assert str(warning) == "this model was trained for 64 x 64; at 128 x 64 the result gets worse"


def test_a_model_without_motion_blocks_refuses_videos_by_its_name(make_queue):
    with pytest.raises(ValueError, match="model counting generates images only"):
        make_queue().submit(TextToVideoRequest(prompt="a cat"), "ann")


def test_another_owner_can_neither_see_cancel_nor_delete_a_job(make_busy_queue):
    queue, job = make_busy_queue()
    for method in (queue.get, queue.cancel, queue.delete):
        with pytest.raises(JobNotFoundError) as refused:
            method(job.id, "bob")
        with pytest.raises(JobNotFoundError) as unknown:
            method("image_0", "ann")
        assert str(refused.value) == str(unknown.value)
    assert queue.get(job.id, "ann") is job
    assert not job.cancel_requested.is_set()


def test_a_queued_job_is_cancelled_at_once_and_the_others_move_up(make_busy_queue):
    queue, _ = make_busy_queue()
    second, third = queue.submit(make_request("second"), "ann"), queue.submit(make_request("third"), "ann")
    queue.cancel(second.id, "ann")
    assert second.last_event == Cancelled()
    assert third.last_event == Queued(position=1)


def test_a_running_job_stops_within_one_step(make_busy_queue, counting):
    queue, job = make_busy_queue()
    queue.cancel(job.id, "ann")
    before = counting.num_steps
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert counting.num_steps - before <= 1
    assert not (queue.results.root / job.id).exists()


def test_a_reader_that_leaves_ends_its_job_within_two_steps(make_busy_queue, counting):
    queue, job = make_busy_queue()
    events = queue.stream_events(job)
    next(events)
    before = counting.num_steps
    events.close()
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert counting.num_steps - before <= 2
    assert isinstance(queue.submit(make_request("next"), "bob").wait(10), Done)


def test_a_reader_that_stays_to_the_end_gets_the_result(make_queue):
    queue = make_queue()
    *_, last = queue.stream_events(queue.submit(make_request(), "ann"))
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
def test_out_of_memory_ends_one_job_and_says_what_to_change(make_queue, counting, error):
    queue = make_queue()
    counting.error = error
    failed = queue.submit(make_request(), "ann").wait(10)
    assert (failed.error.message_id, get_cause(failed.error)) == ("server_out_of_memory", "memory")
    assert counting.num_memory_releases == 1
    counting.error = None
    assert isinstance(queue.submit(make_request(), "ann").wait(10), Done)


def test_a_bug_ends_one_job_and_is_logged_without_details_for_the_user(make_queue, counting, caplog):
    queue = make_queue()
    counting.error = KeyError("/home/someone/secret")
    failed = queue.submit(make_request(), "ann").wait(10)
    assert (failed.error.message_id, get_cause(failed.error)) == ("server_failed", "server")
    assert "secret" not in str(failed.error)
    assert "secret" in caplog.text
    counting.error = None
    assert isinstance(queue.submit(make_request(), "ann").wait(10), Done)


def test_an_error_in_the_request_is_the_cause_of_the_failure(make_queue, counting):
    counting.error = DianjingError("upload_too_many_pixels", max_pixels=1)
    failed = make_queue().submit(make_request(), "ann").wait(10)
    assert failed == Failed(error=counting.error)
    assert get_cause(failed.error) == "request"


def test_a_full_disk_is_named_as_the_cause(make_queue, counting, caplog):
    counting.error = OSError(errno.ENOSPC, "No space left on device", "/srv/secret/result.png")
    failed = make_queue().submit(make_request(), "ann").wait(10)
    assert (failed.error.message_id, get_cause(failed.error)) == ("server_disk_full", "server")
    assert "secret" in caplog.text


def test_results_expire_with_their_files(make_queue):
    queue = make_queue(result_ttl_s=1000)
    job = queue.submit(make_request(), "ann")
    path = job.wait(10).result.files[0]
    assert queue.get(job.id, "ann") is job
    job.finished_at_s -= 1001
    with pytest.raises(JobNotFoundError):
        queue.get(job.id, "ann")
    assert not path.exists()


def test_the_oldest_results_of_an_owner_above_the_limit_are_removed(make_queue):
    queue = make_queue(max_finished_jobs_per_owner=2)
    other = queue.submit(make_request(), "bob")
    other.wait(10)
    jobs = [queue.submit(make_request(), "ann") for _ in range(4)]
    for job in jobs:
        job.wait(10)
    with pytest.raises(JobNotFoundError):
        queue.get(jobs[0].id, "ann")
    assert queue.get(jobs[3].id, "ann") is jobs[3]
    assert queue.get(other.id, "bob") is other


def test_a_deleted_job_leaves_no_files(make_queue):
    queue = make_queue()
    job = queue.submit(make_request(), "ann")
    path = job.wait(10).result.files[0]
    queue.delete(job.id, "ann")
    assert not path.parent.exists()
    with pytest.raises(JobNotFoundError):
        queue.get(job.id, "ann")


def test_a_job_deleted_while_it_runs_leaves_no_files(make_busy_queue, counting):
    queue, job = make_busy_queue()
    queue.delete(job.id, "ann")
    counting.gate.set()
    assert isinstance(job.wait(10), Cancelled)
    assert not (queue.results.root / job.id).exists()


def test_closing_cancels_all_jobs_and_removes_all_files(make_busy_queue, counting):
    queue, job = make_busy_queue()
    queued = queue.submit(make_request(), "ann")
    closing = threading.Thread(target=queue.close)
    closing.start()
    assert job.cancel_requested.wait(10)
    counting.gate.set()
    closing.join(10)
    assert job.state == queued.state == "cancelled"
    assert not queue.results.root.exists()
    assert not queue.is_alive
    with pytest.raises(ShuttingDownError):
        queue.submit(make_request(), "ann")


def test_metrics_count_requests_and_steps(make_queue, counting):
    queue = make_queue(max_run_s=10)
    queue.submit(make_request(), "ann").wait(10)
    counting.error = MemoryError()
    queue.submit(make_request(), "ann").wait(10)
    with pytest.raises(ValueError, match="at most"):
        queue.submit(make_request(num_inference_steps=11), "ann")
    text = queue.metrics.to_prometheus_text().decode()
    for end in ("done", "failed", "refused"):
        assert f'dianjing_requests_total{{end="{end}",kind="image"}} 1.0' in text
    assert 'dianjing_step_seconds_count{kind="image"} 4.0' in text
    assert "dianjing_queue_length 0.0" in text
