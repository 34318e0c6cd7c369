"""Whether a job that has ended goes back into the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_WITHOUT_PROGRESS = 3
"""Exit codes 75 in a row with the same newest checkpoint after which a job gives up."""
RETRYABLE = 75


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Whether this job goes back into the queue, and what a person is told."""

    requeue: bool
    exit_code: int
    message: str
    num_without_progress: int


def decide_restart(
    exit_code: int, *, restarts: int, max_restarts: int, own_batch_shell: bool, progress: str, earlier: dict[str, Any]
) -> Restart:
    """Only 75 restarts, only in the job's own batch shell, within the site's limit, while checkpoints advance."""
    if exit_code != RETRYABLE:
        return Restart(requeue=False, exit_code=exit_code, message="", num_without_progress=0)
    stuck = earlier.get("num_without_progress", 0) + 1 if earlier.get("progress") == progress else 1
    if stuck >= MAX_WITHOUT_PROGRESS:
        message = f"no progress since restart: {stuck} attempts ended at checkpoint {progress or 'none'!r}"
        return Restart(requeue=False, exit_code=70, message=message, num_without_progress=stuck)
    if not own_batch_shell or max_restarts == 0:
        return Restart(requeue=False, exit_code=RETRYABLE, message="", num_without_progress=stuck)
    if restarts >= max_restarts:
        message = f"restarted {restarts} time(s) and the site's max_restarts is {max_restarts}: not again"
        return Restart(requeue=False, exit_code=RETRYABLE, message=message, num_without_progress=stuck)
    message = f"back into the queue: restart {restarts + 1} of at most {max_restarts}"
    return Restart(requeue=True, exit_code=RETRYABLE, message=message, num_without_progress=stuck)
