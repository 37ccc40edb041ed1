"""Loaded styles: those that the page offers, and those that visitors name, within a budget of memory."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import ConfigError, RepoNotFound, nearest
from ..hub import bundled_styles, fetch
from ..pipeline import StylePipeline
from .policy import MIB, Policy
from .scene import draw_scene

PREVIEW = (320, 240)
PREVIEWS = 200  # that are remembered
_REPO = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")


@dataclass(frozen=True, eq=False)
class Style:
    """A style in memory.

    Attributes:
        name: what visitors call it.
        pipe: the pipeline, with the limits of the page.
        preview: a picture in this style.
    """

    name: str
    pipe: StylePipeline
    preview: Image.Image

    @property
    def bytes(self) -> int:
        """Of its weights."""
        return sum(tensor.nbytes for tensor in self.pipe.model.state_dict().values())

    @property
    def wants_reference(self) -> bool:
        """Whether it takes the style from a picture."""
        return "style" in self.pipe.model.capabilities.inputs

    @property
    def count(self) -> int:
        """How many styles it has learnt."""
        return self.pipe.model.capabilities.styles

    @property
    def facts(self) -> str:
        """A line about it, as Markdown."""
        weights = sum(parameter.numel() for parameter in self.pipe.model.parameters())
        what = "takes any style from a picture of yours" if self.wants_reference else "one network, one style"
        if self.count > 1:
            what = f"one network, {self.count} styles"
        return f"**{self.name}** · {type(self.pipe.model).__name__} · {weights / 1e6:.1f} M weights · {what}"


class Styles:
    """Loads styles, keeps those used last, and makes a preview of each.

    Args:
        offered: bundled names, folders or Hub ids that the page shows; all bundled ones when None.
        policy: limits.

    Raises:
        ConfigError: none is offered, or two of one name.
    """

    def __init__(self, offered: Iterable[str] | None, policy: Policy) -> None:
        self.offered = _titles(bundled_styles() if offered is None else map(str, offered))
        if not self.offered:
            raise ConfigError("There is no style to offer", todo="Name one.")
        self._policy, self._loaded = policy, OrderedDict[str, Style]()
        self._previews = OrderedDict[str, Image.Image]()
        self._lock = threading.Lock()
        self._loading = {True: threading.Lock(), False: threading.Lock()}  # a slow Hub holds up no offered style
        self._folder = tempfile.TemporaryDirectory(prefix="styleforge-demo-")

    @property
    def loaded(self) -> list[str]:
        """Names of the styles in memory, the one used last at the end."""
        with self._lock:
            return list(self._loaded)

    @property
    def bytes(self) -> int:
        """Of the weights in memory."""
        with self._lock:
            return sum(style.bytes for style in self._loaded.values())

    def get(self, name: object) -> Style:
        """A style by its name.

        Raises:
            RepoNotFound: no name of a style, or one that visitors may not name.
            ConfigError: it does not fit into the budget, or is none that makes pictures from pictures.
            RepoError, CorruptFileError, WeightsError: it cannot be loaded.
        """
        name = str(name).strip()
        source = self.offered.get(name) or self._allowed(name)
        with self._loading[name in self.offered]:
            return self._known(name) or self._keep(self._load(name, source))

    def preview(self, name: str) -> Image.Image:
        """A picture in this style, made once; see :meth:`get`."""
        return self._previews.get(name) or self.get(name).preview

    def _known(self, name: str) -> Style | None:
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
            return self._loaded.get(name)

    def _allowed(self, name: str) -> str:
        # A folder would be taken before a repository of the same name, and folders are the owner's.
        if self._policy.hub and _REPO.fullmatch(name) and not Path(name).exists():
            return name
        raise RepoNotFound(
            "No such style",
            found=repr(name[:100]),
            allowed=f"{', '.join(self.offered)}{' or organisation/name on the Hub' if self._policy.hub else ''}",
            todo=f"{nearest(name, self.offered)}Choose one of these.",
        )

    def _load(self, name: str, source: str) -> Style:
        if name in self.offered:
            pipe = StylePipeline.from_pretrained(source, policy=self._policy.pictures)
        else:
            pipe = self._visitors(name)
        return Style(name, pipe, self._preview(name, pipe))

    def _visitors(self, name: str) -> StylePipeline:
        """A style that a visitor named: without our token, and with a cache of its own that goes with it."""
        cache = self._cache_of(name)
        try:
            fetch(name, token=False, cache_dir=cache, max_bytes=self._policy.style_bytes)
            pipe = StylePipeline.from_pretrained(name, token=False, cache_dir=cache, policy=self._policy.pictures)
        except BaseException:
            shutil.rmtree(cache, ignore_errors=True)
            raise
        return pipe

    def _cache_of(self, name: str) -> Path:
        return Path(self._folder.name, name.replace("/", "--"))

    def _keep(self, style: Style) -> Style:
        budget = self._policy.style_bytes
        if style.bytes > budget:
            shutil.rmtree(self._cache_of(style.name), ignore_errors=True)
            raise ConfigError(
                "This style is too large for this page",
                where=style.name,
                found=f"{style.bytes / MIB:.0f} MB",
                allowed=f"{budget / MIB:.0f}",
                todo="Use it on your own machine.",
            )
        with self._lock:
            self._loaded[style.name] = style
            while sum(one.bytes for one in self._loaded.values()) > budget:
                name, _ = self._loaded.popitem(last=False)
                shutil.rmtree(self._cache_of(name), ignore_errors=True)
        return style

    def _preview(self, name: str, pipe: StylePipeline) -> Image.Image:
        made = self._previews.get(name) or _in_style(pipe, self._policy.memory)
        with self._lock:
            self._previews[name] = made
            while len(self._previews) > PREVIEWS:
                self._previews.popitem(last=False)
        return made


def _titles(sources: Iterable[str]) -> dict[str, str]:
    """Sources by what visitors call them: they are not told folders of this machine."""
    found: dict[str, str] = {}
    for source in sources:
        path = Path(source).resolve()
        name = (path.parent if path.name == "style" else path).name if path.is_dir() else source  # runs/NAME/style
        if found.setdefault(name, source) != source:
            raise ConfigError(
                "Two styles have one name", where=name, found=f"{found[name]} and {source}", todo="Rename a folder."
            )
    return found


def _in_style(pipe: StylePipeline, memory: float) -> Image.Image:
    """The same scene in every style; what makes pictures from noise makes one."""
    inputs = pipe.model.capabilities.inputs
    if inputs == ("noise",):
        return pipe.generate(1)[0]
    reference = draw_scene("evening", PREVIEW) if "style" in inputs else None
    return pipe(draw_scene("lake", PREVIEW), style=reference, max_memory=memory)
