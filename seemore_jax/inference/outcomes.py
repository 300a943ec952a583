"""What became of each file."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax

from seemore_jax.data.formats import FORMATS, HEIC_HINT, format_of
from seemore_jax.inference.jobs import Job
from seemore_jax.network import Routing
from seemore_jax.system.errors import InputError

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a job.

    Attributes:
      job: the job.
      status: "made" if the output was written, "skipped" if it already existed, "failed", or "not supported" if the
        file was found in a folder and is of a format that cannot be read.
      before: width and height of the input in pixels, if the output was written.
      after: width and height of the output in pixels, if it was written.
      images: number of images in the file, if the output was written: frames of an animation, pages of a document.
      error: message of one line, if the job failed.
      notes: messages for the user, for example about a near tie between two experts.
      routing: routing of a batch of this image, of the first one of several, if the output was written.
    """

    job: Job
    status: Literal["made", "skipped", "failed", "not supported"]
    before: tuple[int, int] | None = None
    after: tuple[int, int] | None = None
    images: int = 1
    error: str | None = None
    notes: tuple[str, ...] = ()
    routing: Routing | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the result in types of JSON, without the fields that are None or empty."""
        fields = {
            "input": str(self.job.source),
            "output": str(self.job.target) if self.status in ("made", "skipped") else None,
            "status": self.status,
            "from": self.before,
            "to": self.after,
            "images": self.images if self.images > 1 else None,
            **(self.job.choice._asdict() if self.job.choice and self.status == "made" else {}),
            "error": self.error,
            "notes": self.notes or None,
        }
        return {name: value for name, value in fields.items() if value is not None}


def not_supported(path: Path) -> Outcome:
    """Returns the outcome of a file in a folder whose format cannot be read.

    Args:
      path: the file.
    """
    hint = HEIC_HINT if format_of(path) is FORMATS["heic"] else None
    return Outcome(Job(path, path), "not supported", error=hint)


def attempt(job: Job, action: Callable[[], _T]) -> _T | Outcome:
    """Returns the result of an action, or a failed `Outcome` if the input, the disk or the memory was the reason.

    Args:
      job: the job that fails if the action fails.
      action: function without arguments.
    """
    try:
        return action()
    except InputError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{job.source}: {error.strerror or error}"
    except MemoryError:
        reason = f"{job.source}: out of memory"
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = f"{job.source}: out of memory on the device"
    return Outcome(job, "failed", error=" ".join(reason.split()))


def summary(outcomes: Iterable[Outcome]) -> str:
    """Returns a message with the numbers of files that were made and skipped, that failed, and that are not supported.

    If several models have made them, it says how many each has made.

    Args:
      outcomes: results of jobs.
    """
    outcomes = list(outcomes)
    statuses = Counter(outcome.status for outcome in outcomes)
    text = f"{statuses['made']} made{_models(outcomes)}, {statuses['skipped']} skipped, {statuses['failed']} failed"
    others = [outcome for outcome in outcomes if outcome.status == "not supported"]
    kinds = Counter((other.job.source.suffix.lower() or "without a suffix", other.error) for other in others)
    counts = [
        f"{count} {suffix}{f' ({hint})' if hint else ''}" for (suffix, hint), count in sorted(kinds.items(), key=str)
    ]
    return f"{text}, not supported: {', '.join(counts)}" if counts else text


def _models(outcomes: Sequence[Outcome]) -> str:
    """Returns how many files each model has made, if there were several models."""
    made = [outcome.job.choice for outcome in outcomes if outcome.status == "made"]
    counts = Counter(choice.model for choice in made if choice)
    return (
        f" ({', '.join(f'{count} by {model}' for model, count in sorted(counts.items()))})" if len(counts) > 1 else ""
    )
