"""Registration with the ``transformers`` Auto classes and pipelines, done once when this file is imported.

Without Pillow there are no processors and no pipeline, but the model itself works.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.utils import is_vision_available

from longvu_model.config import LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration, LongVUModel

AutoConfig.register("longvu", LongVUConfig)
AutoModel.register(LongVUConfig, LongVUModel)
AutoModelForImageTextToText.register(LongVUConfig, LongVUForConditionalGeneration)
AutoModelForMultimodalLM.register(LongVUConfig, LongVUForConditionalGeneration)

if is_vision_available():
    from transformers.pipelines import PIPELINE_REGISTRY

    from longvu_model.media_processor import register_processors
    from longvu_model.processing import LongVUProcessor
    from longvu_model.video_text_pipeline import VideoTextToTextPipeline

    register_processors(LongVUConfig, LongVUProcessor)
    PIPELINE_REGISTRY.register_pipeline(
        "video-text-to-text",
        pipeline_class=VideoTextToTextPipeline,
        pt_model=AutoModelForImageTextToText,
        type="multimodal",
    )
