"""The tests of kombu and Celery that cannot pass, each with the reason: a promise of Hive, or what
upstream itself cannot do here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cannot:
    """Tests that fail for one reason.

    suites: names of suites.py. tests: as pytest writes them behind the file's name, with `*`. run:
    False where it depends on chance, or would leave something to those after it; all others have to
    fail.
    """

    reason: str
    suites: tuple[str, ...]
    tests: tuple[str, ...]
    run: bool = True


EXCEPTIONS: tuple[Cannot, ...] = (
    Cannot(
        "Fencing: a delivery tells in the header `hive` who holds it; the test wants the headers "
        "as they were sent",
        ("kombu-spore",),
        ("test_RedisBasicFunctionality::test_simple_queue_publish_consume[[]*]",),
    ),
    Cannot(
        "A spore holds what it runs: its slots say how many messages it takes, not a consumer's "
        "prefetch_count",
        ("kombu-spore",),
        (
            "test_RedisPriority::test_publish_requeue_consume[[]*]",
            "test_hub_pauses_pending_brpop_until_ack*",
            "test_drain_events_resumes_pending_brpop_without_resending",
            "test_pending_message_survives_cancel_or_close*",
            "test_paused_channel_does_not_block_other_channels",
        ),
    ),
    Cannot(
        "A wait for work has two answers, nothing yet and then a token; the test calls kombu's "
        "reader itself, and lets its Empty, which"
        " every event loop passes over, end it",
        ("kombu-spore",),
        ("test_event_loop_consumes_after_connection_reconnect[[]*-BRPOP]",),
        run=False,
    ),
    Cannot(
        "Late acknowledgement: what runs is not acknowledged; and a priority that nobody gave is 5",
        ("celery-spore",),
        ("test_Inspect::test_active", "test_Inspect::test_query_task"),
    ),
    Cannot(
        "What is due later waits in the broker, not in a worker that `inspect scheduled` could ask",
        ("celery-spore",),
        ("test_Inspect::test_scheduled",),
    ),
    Cannot(
        "A task that has started is told as STARTED (task_track_started); the test takes the first "
        "state that it sees for the last",
        ("celery-spore",),
        ("test_tasks::test_retry_with_unpickleable_exception",),
        run=False,
    ),
    Cannot(
        "Every task has a time limit (HIVE_TASK_TIMEOUT) unless it lifts it",
        ("celery-spore",),
        ("test_tasks::test_request_time_limits_none_when_not_configured",),
    ),
    Cannot(
        "Sending takes one round trip: who waits for a result subscribes then, not when the task "
        "is sent",
        ("celery-spore",),
        (
            "test_task_redis_result_backend::test_asyncresult_forget_cancels_subscription",
            "test_task_redis_result_backend::test_asyncresult_get_cancels_subscription",
        ),
    ),
    Cannot(
        "A success is final: the broker's scripts read a result's state, so results are not "
        "compressed",
        ("celery-spore",),
        ("test_decode_responses_disables_compression",),
    ),
    Cannot(
        "The test clears its flag after it has sent the task, which an idle spore has received by "
        "then",
        ("celery-spore",),
        ("test_task_replacement::test_replaced_task_nesting_level_0",),
        run=False,
    ),
    Cannot(
        "It reads what a pool's process logs within 10 ms; here it fails, or hangs, without Hive, "
        "too",
        ("celery-spore", "celery-stock"),
        ("test_trace_log_arguments::*",),
        run=False,
    ),
    Cannot(
        "It needs Django, which Hive does not bring along",
        ("celery-spore", "celery-stock"),
        (
            "test_django_fixup_direct_worker",
            "test_django_fixup_installs_django_task_for_celery_subclass",
        ),
    ),
)
