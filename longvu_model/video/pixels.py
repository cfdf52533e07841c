"""From a decoded frame to RGB as the viewer sees it: colour conversion, one size per video, rotation.

The conversion is FFmpeg's default from the frame's own colour space; on the pinned versions it gives the same bytes as
decord for 8-bit video, so as the published code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Orientation:
    """How the stored picture is turned for display: transposed first, then mirrored."""

    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False

    @property
    def rotation(self) -> int:
        """Counterclockwise turn in degrees: -90, 0, 90 or 180. A mirrored picture is turned first, then mirrored."""
        if self.transposed:
            return 90 if self.upside_down else -90
        return 180 if self.upside_down else 0

    def apply(self, picture_HWC: Rgb) -> Rgb:
        """A view of ``picture_HWC`` turned for display."""
        if self.transposed:
            picture_HWC = picture_HWC.transpose(1, 0, 2)
        return picture_HWC[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


def frame_orientation(frame: Any) -> Orientation:
    """Orientation that the container or stream asks for, to the nearest quarter turn."""
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    # Point (p, q) of the stored picture is shown at (a p + c q, b p + d q), y down.
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(a) >= abs(b):
        return Orientation(False, mirrored=a < 0, upside_down=d < 0)
    return Orientation(True, mirrored=c < 0, upside_down=b < 0)


@dataclass
class RgbConverter:
    """Converts the frames of one video; size and orientation of its first frame hold for all of them.

    A frame of another size (a stream may change it) is scaled to the first one's, so that frames stack.
    """

    size: tuple[int, int] | None = None
    orientation: Orientation = field(default_factory=Orientation)
    _reformatter: Any = field(default_factory=av.video.reformatter.VideoReformatter, repr=False)

    def __call__(self, frame: Any) -> Rgb:
        """RGB view (H, W, 3) uint8 as displayed. It shows FFmpeg's own buffer: copy what is to stay."""
        if self.size is None:
            self.size = (frame.width, frame.height)
            self.orientation = frame_orientation(frame)
        width, height = self.size
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        return self.orientation.apply(rgb.to_ndarray())
