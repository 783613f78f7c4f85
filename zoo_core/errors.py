"""What the zoo raises, and how commands end on it. Every message is a sentence or two that say what to do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 2000  # characters of a sentence
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again


class ZooError(Exception):
    """The root: catch it to catch everything the zoo says on purpose."""


class PluginError(ZooError):
    """A plugin is installed but cannot be loaded, or a component of it cannot be imported."""


class UnknownComponent(ZooError, LookupError):
    """No component has that name; the message suggests near ones."""


class ConfigError(ZooError, ValueError):
    """A config does not describe a component; the message starts with the path of the culprit."""


class CheckpointError(ZooError):
    """A checkpoint is missing, damaged, or not what was asked for; the message names the file."""


class DataError(ZooError):
    """A data set is missing or cannot be used; the message says which and what would do."""


class TrainingError(ZooError):
    """A run cannot start or cannot go on; what was saved before stays."""


class Stopped(ZooError):
    """A run was told to stop, has written a checkpoint, and can go on from there."""


def plain(text: str, longest: int = 200) -> str:
    """Words of a stranger inside a sentence: what no terminal shows is escaped, and what is long is cut."""
    visible = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: longest + 1])
    return visible if len(visible) <= longest else visible[: longest - 2] + " …"


@contextmanager
def exit_with_sentence() -> Iterator[None]:
    """For commands: an error raised on purpose ends the process with its sentence instead of a traceback.

    Exit codes: 1 for a run or a file that failed, 2 for bad input, 75 for a run that was stopped and can go on.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of a pipe, such as head, had enough
        sys.stderr.close()
    except Stopped as stopped:
        sys.exit(_tell(stopped, STOPPED, ""))
    except (TrainingError, OSError) as error:
        sys.exit(_tell(error, 1))
    except ZooError as error:
        sys.exit(_tell(error, 2))


def _tell(error: Exception, code: int, prefix: str = "error: ") -> int:
    sentence = plain(str(error), LONGEST)
    sys.stderr.write(f"{prefix}{sentence}\n")  # at once, since other processes of a run may write there too
    return code
