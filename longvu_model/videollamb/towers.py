"""LanguageBind's image and video towers: CLIP, and CLIP with attention over time (SEMANTICS section 1).

Both give the hidden state that the configuration names, with the class token in front. The layers behind it, and the
final norm, have no influence and do not exist here.

Shapes: F frames, W frames of a temporal window, P patches, N = 1 + P tokens, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from longvu_model import ragged
from longvu_model.tower_pixels import CLIP_MEAN, CLIP_STD
from longvu_model.towers import Mlp, Tower, VisionBlock, attend
from longvu_model.videollamb.config import VideoLLaMBConfig


class ImageTower(Tower):
    """CLIP: every frame by itself.

    Args:
        tower: the library's CLIPVisionConfig, whose sizes it types as unions.
        num_blocks: layers in front of the feature.
    """

    image_mean = CLIP_MEAN
    image_std = CLIP_STD

    def __init__(self, tower: Any, num_blocks: int):
        super().__init__(
            tower.hidden_size, tower.patch_size, [self._block(tower) for _ in range(num_blocks)], patch_bias=False
        )
        self.image_size = tower.image_size
        self.class_token = nn.Parameter(torch.zeros(tower.hidden_size))
        self.position = nn.Parameter(torch.zeros((tower.image_size // tower.patch_size) ** 2 + 1, tower.hidden_size))
        self.norm = nn.LayerNorm(tower.hidden_size, eps=tower.layer_norm_eps)

    def _block(self, tower: Any) -> VisionBlock:
        return VisionBlock(*_block_arguments(tower))

    def embed(self, pixels_FCHW: Tensor) -> Tensor:
        patches_FPD = self.patch(pixels_FCHW).flatten(2).transpose(1, 2)
        class_F1D = self.class_token.expand(len(patches_FPD), 1, -1)
        return self.norm(torch.cat([class_F1D, patches_FPD], dim=1) + self.position)

    def finish(self, x_FND: Tensor) -> Tensor:
        return x_FND


class VideoTower(ImageTower):
    """CLIP whose layers begin with attention over the frames of a window, for each token position separately.

    Frames come in whole windows, those of one video after those of another; windows do not see one another.
    """

    def __init__(self, tower: Any, num_blocks: int, window: int):
        self.window = window
        super().__init__(tower, num_blocks)

    def _block(self, tower: Any) -> VisionBlock:
        return VideoBlock(tower, self.window)


class VideoBlock(VisionBlock):
    """A layer of the video tower: ``x += embedding``, ``x += attention over time(norm(x))``, then as in CLIP."""

    def __init__(self, tower: Any, window: int):
        super().__init__(*_block_arguments(tower))
        self.over_time = TimeAttention(tower.hidden_size, tower.num_attention_heads, tower.layer_norm_eps, window)

    def forward(self, x_FND: Tensor) -> Tensor:
        return super().forward(self.over_time(x_FND))


class TimeAttention(nn.Module):
    """Attention between the frames of a window; the embedding of time stays in the residual stream."""

    def __init__(self, width: int, num_heads: int, norm_eps: float, window: int):
        super().__init__()
        self.num_heads = num_heads
        self.embedding = nn.Parameter(torch.zeros(1, window, width))
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_FND: Tensor) -> Tensor:
        """(F, N, D), F a multiple of the window."""
        num_frames, num_tokens, width = x_FND.shape
        window = self.embedding.shape[1]
        # (windows, W, N, D) -> (windows * N, W, D)
        x_XWD = x_FND.view(-1, window, num_tokens, width).transpose(1, 2).reshape(-1, window, width)
        x_XWD = x_XWD + self.embedding
        x_XWD = x_XWD + attend(self, self.norm(x_XWD))
        return x_XWD.view(-1, num_tokens, window, width).transpose(1, 2).reshape(num_frames, num_tokens, width)


class Towers(nn.Module):
    """The frozen towers of a model; without a video tower, frames of videos are images."""

    def __init__(self, config: VideoLLaMBConfig):
        super().__init__()
        self.rules, self.window = config.rules, config.temporal_window
        self.image = ImageTower(config.image_config, num_blocks(config.image_config, config.feature_layer))
        self.video: VideoTower | None = None
        if config.video_config is not None:
            depth = num_blocks(config.video_config, config.feature_layer)
            self.video = VideoTower(config.video_config, depth, config.temporal_window)

    def forward(self, pixels_FCHW: Tensor, counts_V: Tensor, is_video_V: Tensor) -> Tensor:
        """Features of the frames of media, in their order: (F, N, D), class token first.

        Args:
            counts_V: frames per medium, on the CPU.
            is_video_V: bool, on the CPU.

        Raises:
            ValueError: under published semantics, frames of a video that are no whole windows.
        """
        by_video_V = is_video_V & (self.video is not None)
        by_video_F = by_video_V[ragged.expand(counts_V)[0]]
        parts, places = [], []
        if not bool(by_video_F.all()):
            place = (~by_video_F).nonzero()[:, 0]
            parts.append(self.image(pixels_FCHW[place.to(pixels_FCHW.device)]))
            places.append(place)
        if self.video is not None and bool(by_video_F.any()):
            filled, shown = self._whole_windows(counts_V, by_video_V)
            features = self.video(pixels_FCHW[filled.to(pixels_FCHW.device)])
            parts.append(features if bool(shown.all()) else features[shown.to(features.device)])
            places.append(by_video_F.nonzero()[:, 0])
        if len(parts) == 1:
            return parts[0]
        order = torch.cat(places).argsort()
        return torch.cat(parts)[order.to(parts[0].device)]

    def _whole_windows(self, counts_V: Tensor, by_video_V: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of videos in whole windows, a last frame as often as it takes; which of them are shown."""
        frames, shown = [], []
        for start, count in zip(ragged.starts(counts_V)[by_video_V], counts_V[by_video_V], strict=True):
            missing = -int(count) % self.window
            if missing and self.rules.whole_windows_only:
                raise ValueError(
                    f"a video of {int(count)} frames: under published semantics a multiple of {self.window} is needed"
                )
            frames.append(start + torch.arange(int(count) + missing).clamp(max=int(count) - 1))
            shown.append(torch.arange(int(count) + missing) < int(count))
        return torch.cat(frames), torch.cat(shown)


def num_blocks(tower: Any, layer: int) -> int:
    """Layers in front of an entry of the list of hidden states, which begins with the embeddings."""
    count = layer + tower.num_hidden_layers + 1 if layer < 0 else layer
    if not 0 <= count <= tower.num_hidden_layers:
        raise ValueError(f"feature_layer={layer}: a tower of {tower.num_hidden_layers} layers has no such state")
    return count


def _block_arguments(tower: Any) -> tuple[int, int, nn.Module, float, bool, bool]:
    mlp = Mlp(tower.hidden_size, tower.intermediate_size, tower.hidden_act)
    return tower.hidden_size, tower.num_attention_heads, mlp, tower.layer_norm_eps, False, True
