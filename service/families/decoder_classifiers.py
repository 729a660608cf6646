"""The classes of transformers with a classification head on a decoder. Their logits are those of the last token."""

# Family -> its class.
DECODER_CLASSIFIERS: dict[str, str] = {
    "llama": "LlamaForSequenceClassification",
    "mistral": "MistralForSequenceClassification",
    "qwen2": "Qwen2ForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
    "gemma2": "Gemma2ForSequenceClassification",
    "gemma3_text": "Gemma3TextForSequenceClassification",
    "phi3": "Phi3ForSequenceClassification",
    "olmo2": "Olmo2ForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
    "opt": "OPTForSequenceClassification",
    "gpt_neox": "GPTNeoXForSequenceClassification",
    "smollm3": "SmolLM3ForSequenceClassification",
    "ministral3": "Ministral3ForSequenceClassification",
    "olmo3": "Olmo3ForSequenceClassification",
    "gemma": "GemmaForSequenceClassification",
    "glm4": "Glm4ForSequenceClassification",
    "starcoder2": "Starcoder2ForSequenceClassification",
    "nemotron": "NemotronForSequenceClassification",
    "exaone4": "Exaone4ForSequenceClassification",
    "seed_oss": "SeedOssForSequenceClassification",
    "hunyuan_v1_dense": "HunYuanDenseV1ForSequenceClassification",
}
