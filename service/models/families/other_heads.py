"""The classes of transformers with another head than that of a family's row."""

# Family -> the class with a classification head on its decoder. Its logits are those of the last token.
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

# Family -> the class with a classification head for each token of its encoder.
TOKEN_CLASSIFIERS: dict[str, str] = {
    "bert": "BertForTokenClassification",
    "roberta": "RobertaForTokenClassification",
    "distilbert": "DistilBertForTokenClassification",
    "xlm-roberta": "XLMRobertaForTokenClassification",
    "electra": "ElectraForTokenClassification",
    "modernbert": "ModernBertForTokenClassification",
    "deberta-v2": "DebertaV2ForTokenClassification",
}
