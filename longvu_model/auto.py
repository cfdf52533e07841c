"""Registration with the ``transformers`` Auto classes and pipelines, done once when this file is imported."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoVideoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from longvu_model.config import LongVUConfig
from longvu_model.image_processing import LongVUImageProcessor
from longvu_model.modeling import LongVUForConditionalGeneration, LongVUModel
from longvu_model.processing import LongVUProcessor
from longvu_model.video_processing import LongVUVideoProcessor
from longvu_model.video_text_pipeline import VideoTextToTextPipeline

AutoConfig.register("longvu", LongVUConfig)
AutoModel.register(LongVUConfig, LongVUModel)
AutoModelForImageTextToText.register(LongVUConfig, LongVUForConditionalGeneration)
AutoModelForMultimodalLM.register(LongVUConfig, LongVUForConditionalGeneration)
AutoProcessor.register(LongVUConfig, LongVUProcessor)
AutoImageProcessor.register(LongVUConfig, LongVUImageProcessor)
AutoVideoProcessor.register(LongVUConfig, LongVUVideoProcessor)
PIPELINE_REGISTRY.register_pipeline(
    "video-text-to-text",
    pipeline_class=VideoTextToTextPipeline,
    pt_model=AutoModelForImageTextToText,
    type="multimodal",
)
