"""The model families that can be slimmed, as far as the API must know them: data, not code.

`worker.slimming.architectures` says where the tensors are; a test holds the two tables together.
"""

from service.schemas import Family, Unit

FFN = [Unit.ffn]

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(model_type="llama", kind="causal", units=FFN),
        Family(model_type="mistral", kind="causal", units=FFN),
        Family(model_type="qwen2", kind="causal", units=FFN),
        Family(model_type="qwen3", kind="causal", units=FFN),
        Family(model_type="gemma2", kind="causal", units=FFN),
        Family(model_type="gemma3_text", kind="causal", units=FFN),
        Family(model_type="phi3", kind="causal", units=FFN),
        Family(model_type="gpt2", kind="causal", units=FFN),
        Family(model_type="opt", kind="causal", units=FFN),
        Family(model_type="gpt_neox", kind="causal", units=FFN),
        Family(model_type="t5", kind="encoder-decoder", units=FFN),
        Family(model_type="mt5", kind="encoder-decoder", units=FFN),
        Family(model_type="bart", kind="encoder-decoder", units=FFN),
        Family(model_type="bert", kind="classifier", units=FFN),
        Family(model_type="roberta", kind="classifier", units=FFN),
        Family(model_type="distilbert", kind="classifier", units=FFN),
    )
}
