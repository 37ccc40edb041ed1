"""The residual generator of CycleGAN (Zhu et al., 2017), after Johnson et al., 2016; CUT's anti-aliased form too."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Channels, Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import BlurDown, BlurUp, init_normal, norm
from ..precision import full_precision

Statistics = Literal["running", "batch"]
_PADDING = {"zero": "zeros", "reflect": "reflect"}  # our word: torch's


class ResidualBlock(nn.Module):
    """conv3, norm, ReLU, [dropout], conv3, norm, plus the input."""

    def __init__(
        self, channels: int, kind: Literal["instance", "batch"], dropout: bool, statistics: Statistics = "running"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm1 = norm(kind, channels, statistics)
        self.dropout = nn.Dropout(0.5) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm2 = norm(kind, channels, statistics)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        y = self.dropout(F.relu(self.norm1(self.conv1(x)), inplace=True))
        return x + self.norm2(self.conv2(y))


class Down(nn.Module):
    """Halve the size: conv3 with stride 2, or conv3 and then a blur, as CUT does against aliasing."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kind: Literal["instance", "batch"],
        blur: bool,
        border: str,
        statistics: Statistics = "running",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, 3, stride=1 if blur else 2, padding=1, padding_mode=_PADDING[border], bias=False
        )
        self.norm = norm(kind, outputs, statistics)
        self.blur = BlurDown() if blur else nn.Identity()

    def after_conv(self, x: Tensor) -> Tensor:
        """What follows the convolution; CUT looks at the features in between."""
        return self.blur(F.relu(self.norm(x), inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H/2), ceil(W/2))."""
        return self.after_conv(self.conv(x))


class Up(nn.Module):
    """Double the size: transposed conv3, or a resize (nearest or blurred) and then conv3."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kind: Literal["instance", "batch"],
        mode: Literal["transpose", "resize", "blur"],
        border: str,
        statistics: Statistics = "running",
    ) -> None:
        super().__init__()
        if mode == "transpose":
            self.resize: nn.Module = nn.Identity()
            self.conv: nn.Module = nn.ConvTranspose2d(
                inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False
            )
        else:
            self.resize = BlurUp() if mode == "blur" else nn.Upsample(scale_factor=2, mode="nearest")
            self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=_PADDING[border], bias=False)
        self.norm = norm(kind, outputs, statistics)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2H, 2W)."""
        return F.relu(self.norm(self.conv(self.resize(x))), inplace=True)


class Detail(nn.Module):
    """What maps a quarter of the size cannot hold: two convolutions of 3 at full size see the picture beside the maps.

    The second begins with zeros, so that a network that gets it anew is the one that it was.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs + channels, channels, 3, padding=1, padding_mode="reflect")
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Maps (B, C, H, W) and the picture (B, inputs, H, W) to maps."""
        both = torch.cat([x, image.to(x.dtype)], dim=1)  # under autocast a float32 picture would make all of it float32
        return x + self.conv2(F.relu(self.conv1(both), inplace=True))


class Equalizer(nn.Conv2d):
    """A filter of 7 x 7 over the finished picture: how strong its detail of each size is. Begins without effect."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 7, padding=3, padding_mode="reflect", bias=False)

    def reset_parameters(self) -> None:
        """Begin as a filter that changes nothing."""
        nn.init.dirac_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to the same; in float32, because half of it would round more than 8 bit do."""
        return filtered(x, self.weight).to(x.dtype)


class ResnetGenerator(PretrainedMixin, tags=["image-to-image", "resnet"]):
    """Two steps down, residual blocks, two steps up.

    Convolutions in front of a norm have no bias: an instance norm removes it again, so it would get no gradient
    and only drift. The reference implementations keep it; their outputs are the same without it.

    Args:
        in_channels: channels of the input picture.
        out_channels: channels of the output picture.
        width: channels after the first convolution; 4 times as many in the blocks.
        blocks: residual blocks; 6 for 128 px, 9 from 256 px on.
        norm: instance norm, or batch norm.
        dropout: dropout of one half inside the blocks, while training.
        downsample: "stride" (CycleGAN) or "blur" (CUT, against aliasing).
        upsample: "transpose" (CycleGAN; prone to checkerboards), "resize" (nearest) or "blur" (CUT).
        border: padding of the convolutions on the way down and up, "zero" as in the papers, or "reflect", which
            tells the network less about where the edge is (a transposed convolution keeps zeros). With zeros,
            CUT's contrast may teach it stripes along the edges.
        statistics: for batch norm at test time, "running" ones or those of the picture ("batch").
        detail: two more convolutions behind the way up, which see the picture beside the maps and add to these. Not
            in the papers, whose networks have to make grain and thin lines from maps a quarter of the size, with
            patterns of 4 pixels. Begins without effect.
        equalizer: a filter behind the tanh, which sets how strong detail of each size is; not in the papers. Begins
            without effect; :func:`styleforge.equalize.equalize` fits it.
    """

    capabilities = Capabilities(multiple=4, smallest=8)

    def __init__(
        self,
        *,
        in_channels: Channels = 3,
        out_channels: Channels = 3,
        width: Width = 64,
        blocks: Annotated[int, Range(0, 64)] = 9,
        norm: Literal["instance", "batch"] = "instance",
        dropout: bool = False,
        downsample: Literal["stride", "blur"] = "stride",
        upsample: Literal["transpose", "resize", "blur"] = "transpose",
        border: Literal["zero", "reflect"] = "zero",
        statistics: Statistics = "running",
        detail: bool = False,
        equalizer: bool = False,
    ) -> None:
        super().__init__()
        blur = downsample == "blur"
        self.stem = nn.Conv2d(in_channels, width, 7, padding=3, padding_mode="reflect", bias=False)
        self.stem_norm = _norm(norm, width, statistics)
        self.down = nn.ModuleList(
            Down(channels, 2 * channels, norm, blur, border, statistics) for channels in (width, 2 * width)
        )
        self.blocks = nn.ModuleList([ResidualBlock(4 * width, norm, dropout, statistics) for _ in range(blocks)])
        self.up = nn.ModuleList(
            Up(2 * channels, channels, norm, upsample, border, statistics) for channels in (2 * width, width)
        )
        self.detail = Detail(in_channels, width) if detail else None
        self.head = nn.Conv2d(width, out_channels, 7, padding=3, padding_mode="reflect")
        init_normal(self)
        if detail:
            nn.init.zeros_(self.detail.conv2.weight)
        self.equalizer = Equalizer(out_channels) if equalizer else None

    def forward(self, image: Tensor) -> Tensor:
        """Style a picture.

        Args:
            image: (B, in_channels, H, W) in [-1, 1], H and W multiples of 4 and at least 8.

        Returns:
            (B, out_channels, H, W) in [-1, 1].
        """
        x = self._start(image)
        for step in (*self.down, *self.blocks, *self.up):
            x = step(x)
        if self.detail is not None:
            x = self.detail(x, image)
        made = self.head(x).tanh()
        return made if self.equalizer is None else self.equalizer(made)

    def features(self, image: Tensor, blocks: tuple[int, ...] = (0, 4)) -> list[Tensor]:
        """What CUT compares: the padded picture, both convolutions on the way down, and some blocks.

        Args:
            image: as for :meth:`forward`.
            blocks: residual blocks whose output is taken.

        Returns:
            Feature maps (B, C, h, w), finest first. The picture comes padded by 3 as in the reference. The
            convolutions have no bias, unlike there; those of CUT's heads do its work.
        """
        taps = [F.pad(image, (3, 3, 3, 3), mode="reflect")]
        x = self._start(image)
        for down in self.down:
            x = down.conv(x)
            taps.append(x)
            # In the reference without blur the last of these is seen after its norm and ReLU; we take
            # the plain convolution always.
            x = down.after_conv(x)
        for index, block in enumerate(self.blocks[: max(blocks, default=-1) + 1]):
            x = block(x)
            if index in blocks:
                taps.append(x)
        return taps

    def _start(self, image: Tensor) -> Tensor:
        return F.relu(self.stem_norm(self.stem(image)), inplace=True)


@full_precision
def filtered(image: Tensor, weight: Tensor) -> Tensor:
    """What :class:`Equalizer` makes of a picture (B, C, H, W) in [-1, 1], with weights (C, C, 7, 7)."""
    return F.conv2d(F.pad(image, (3, 3, 3, 3), mode="reflect"), weight).clamp(-1, 1)


_norm = norm  # the constructor's argument of that name hides it
