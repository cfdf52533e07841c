"""Which published quirks a model keeps: one frozen record, two instances.

Released LongVU checkpoints were trained with a number of accidents in the code (``docs/design.md`` lists them with the
reason and the remedy). ``PUBLISHED`` keeps every one of them, so a released checkpoint computes what it was trained to
compute; ``CORRECTED`` mends those that are defects. Code asks for a field, never for the name of the record.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Semantics:
    """One field per defect; ``True`` keeps the published behaviour. [Qn] is the number in ``docs/design.md``."""

    swap_video_size: bool
    """[Q3] Read the (height, width) of a video as (width, height) when cropping and masking."""

    text_length_by_pad_id: bool
    """[Q5] Text length for frame budgets = index of the first constant pad id (0 with left padding), not a count."""

    budgets_ignore_newlines: bool
    """[Q6, Q27] Frame budgets count grid cells only; newline tokens and cropping are left out of the estimate."""

    regime_from_first_row: bool
    """[Q10] The first row of a batch decides the regime of every row; all media are images or all are videos."""

    low_regime_keeps_full_tokens: bool
    """[Q11] The low-budget regime hands full-resolution tokens to the token drop, not low-resolution ones."""

    cosine_of_sine: bool
    """[Q12] Odd channels of the frame position are cos(sin(t w)) instead of cos(t w)."""

    images_use_low_tokens: bool
    """[Q13] With mixed resolution, images are always shown at low resolution, and never reduced."""

    zero_gain_raises: bool
    """[Q14] Mixing divides by (full - low) tokens per frame, an error when they coincide, instead of upgrading none."""

    overflow_cuts_tails: bool
    """[Q15] Tokens over the budget are cut from chunk tails (a negative budget slices from the end), not thinned
    evenly."""

    outputs_follow_inputs: bool
    """[Q16] Without an input mask none is made, so the padding of a ragged batch takes part in attention."""

    stop_by_suffix: bool
    """[Q18] The stop rule looks at a mis-sliced tail, in practice at a suffix, and waits for every row at once."""

    unmask_markers_everywhere: bool
    """[Q20, Q21] Turn markers are learned in every turn, whoever speaks, instead of only in the assistant's."""

    dummy_image_for_text: bool
    """[Q22, Q25] A row without a medium carries a dummy image, placed at position 91 when training."""

    placeholder_zeros: bool
    """[Q23] When training, up to S*S+S-1 tokens with id 0 follow each visual sequence."""

    videos_grouped_as_text: bool
    """[Q24] Length grouping counts videos as text-only samples."""

    empty_crop_uncropped: bool
    """[Q26] A crop that would be empty falls back to the whole padded grid instead of its central line."""

    vanishing_low_size_raises: bool
    """A picture whose height truncates to 0 on the low grid's scale is an error, instead of counting as 1."""

    answers_guide_resolution: bool
    """The query that selects full-resolution frames contains the answer when training (labels are not excluded)."""

    first_medium_budget: bool
    """Only the first medium of a row is held to the row's visual budget, instead of all of them sharing it evenly."""

    missing_media_is_sample_zero: bool
    """A sample whose medium cannot be read is silently replaced by the first sample, instead of raising."""

    default_drop_threshold: float
    """[Q28] Token drop threshold of a configuration that names none."""


PUBLISHED = Semantics(
    swap_video_size=True,
    text_length_by_pad_id=True,
    budgets_ignore_newlines=True,
    regime_from_first_row=True,
    low_regime_keeps_full_tokens=True,
    cosine_of_sine=True,
    images_use_low_tokens=True,
    zero_gain_raises=True,
    overflow_cuts_tails=True,
    outputs_follow_inputs=True,
    stop_by_suffix=True,
    unmask_markers_everywhere=True,
    dummy_image_for_text=True,
    placeholder_zeros=True,
    videos_grouped_as_text=True,
    empty_crop_uncropped=True,
    vanishing_low_size_raises=True,
    answers_guide_resolution=True,
    first_medium_budget=True,
    missing_media_is_sample_zero=True,
    default_drop_threshold=0.7,
)

CORRECTED = Semantics(
    swap_video_size=False,
    text_length_by_pad_id=False,
    budgets_ignore_newlines=False,
    regime_from_first_row=False,
    low_regime_keeps_full_tokens=False,
    cosine_of_sine=False,
    images_use_low_tokens=False,
    zero_gain_raises=False,
    overflow_cuts_tails=False,
    outputs_follow_inputs=False,
    stop_by_suffix=False,
    unmask_markers_everywhere=False,
    dummy_image_for_text=False,
    placeholder_zeros=False,
    videos_grouped_as_text=False,
    empty_crop_uncropped=False,
    vanishing_low_size_raises=False,
    answers_guide_resolution=False,
    first_medium_budget=False,
    missing_media_is_sample_zero=False,
    default_drop_threshold=0.8,
)

SEMANTICS = {"published": PUBLISHED, "corrected": CORRECTED}
