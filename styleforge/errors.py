"""Every error that styleforge raises on purpose, in one tree.

```
StyleforgeError
├── RepoError             also an OSError: something about a repository or a folder of a style
│   ├── RepoNotFound      no such repository, folder or bundled style
│   ├── RevisionNotFound  the repository exists, the revision does not
│   ├── GatedRepo         it exists, but needs a token with access
│   ├── NotAStyle         it exists, but has no styleforge config.json / model.safetensors
│   ├── HubUnavailable    network trouble, or offline and not in the cache
│   ├── PushRefused       the Hub said no to a push
│   └── PushConflict      somebody else pushed in the meantime
├── UnsafeFileError       a file of a kind that could run code, or a path that leaves its folder
├── CorruptFileError      truncated, wrong header, bad JSON
├── ConfigError           also a ValueError: an unknown key, a wrong type, a value out of range
│   ├── UnknownName       an architecture, method or bundled style that does not exist (nearest named)
│   │   └── NoSuchRegion  a region that a segmenter did not find in this picture
│   └── MaskMismatch      a mask of another size than this picture
├── WeightsError          weights that do not fit the configuration
│   ├── WeightsMismatch   missing, unexpected or wrongly shaped tensors
│   └── NonFiniteWeights  NaN or infinity among the weights
├── ImageError            also a ValueError: a picture that cannot be used
│   ├── ImageTooLarge     over the limits of the policy
│   ├── ImageFormatRefused  a format that the policy does not list
│   └── ImageUnreadable   missing, rotten, truncated, not a picture at all
├── DataError             a folder of training pictures that cannot be used
├── CheckpointError       no checkpoint of a run can be used
├── TrainingDiverged      a loss is not finite any more
└── MissingExtra          also an ImportError: an optional dependency is not installed
```

Each message says what failed, where, what was found against what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StyleforgeError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what failed, as the beginning of a sentence.
        where: the file, repository, key or step it failed at.
        found: what was there.
        allowed: what may be there.
        todo: what the reader can do about it, as a sentence.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        allowed: object = None,
        todo: str | None = None,
    ) -> None:
        message = what if where is None else f"{what} ({where})"
        if found is not None:
            message += f": found {found}"
        if allowed is not None:
            message += f"{'; ' if found is not None else ': '}allowed: {allowed}"
        if not message.endswith(("!", "?")):
            message = message.rstrip(".") + "."
        # A single argument, so that the error survives pickling between processes.
        super().__init__(f"{message} {todo}" if todo else message)

    def __str__(self) -> str:  # OSError subclasses would print their errno form
        return str(self.args[0]) if self.args else ""


class RepoError(StyleforgeError, OSError):
    """Something about a repository or a folder of a style."""


class RepoNotFound(RepoError):
    """No such repository, folder or bundled style."""


class RevisionNotFound(RepoError):
    """The repository exists, the revision does not."""


class GatedRepo(RepoError):
    """The repository exists, but needs a token with access."""


class NotAStyle(RepoError):
    """The repository exists, but holds no styleforge style."""


class HubUnavailable(RepoError):
    """Network trouble, or offline and not in the cache."""


class PushRefused(RepoError):
    """The Hub said no to a push."""


class PushConflict(RepoError):
    """Somebody else pushed in the meantime."""


class UnsafeFileError(StyleforgeError):
    """A file of a kind that could run code, or a path that leaves its folder."""


class CorruptFileError(StyleforgeError):
    """Truncated, wrong header, bad JSON."""


class ConfigError(StyleforgeError, ValueError):
    """An unknown key, a wrong type, a value out of range."""


class UnknownName(ConfigError):
    """An architecture, method or bundled style that does not exist."""


class NoSuchRegion(UnknownName):
    """A region that a segmenter did not find in this picture; it may in the next one."""


class MaskMismatch(ConfigError):
    """A mask of another size than this picture; it may fit the next one."""


class WeightsError(StyleforgeError):
    """Weights that do not fit the configuration."""


class WeightsMismatch(WeightsError):
    """Missing, unexpected or wrongly shaped tensors."""


class NonFiniteWeights(WeightsError):
    """NaN or infinity among the weights."""


class ImageError(StyleforgeError, ValueError):
    """A picture that cannot be used."""


class ImageTooLarge(ImageError):
    """Over the limits of the policy."""


class ImageFormatRefused(ImageError):
    """A format that the policy does not list."""


class ImageUnreadable(ImageError):
    """Missing, rotten, truncated, or not a picture at all."""


class DataError(StyleforgeError):
    """A folder of training pictures that cannot be used."""


class CheckpointError(StyleforgeError):
    """No checkpoint of a run can be used."""


class TrainingDiverged(StyleforgeError):
    """A loss is not finite any more."""


class MissingExtra(StyleforgeError, ImportError):
    """An optional dependency is not installed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"Did you mean 'x'? "`, or an empty string when nothing known resembles `name`."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f"Did you mean '{by_lower[close[0]]}'? " if close else ""
