"""The encoders with a classification head: one row for each `model_type`."""

from service.models.families.family import NO_HEADS, NO_SGLANG, FirstLayer, ModelFamily, PretrainedHead
from service.models.tensors.encoders import has_convolution
from service.models.tensors.names import CheckpointNames, StackNames, feed_forward

# --- tensors ---------------------------------------------------------------------------------------------------------

BERT = StackNames("encoder", "encoder.layer", feed_forward(r"output\.dense", r"intermediate\.dense"))
DISTILBERT = StackNames("encoder", "transformer.layer", feed_forward(r"ffn\.lin2", r"ffn\.lin1"))
MODERNBERT = StackNames("encoder", "layers", feed_forward(r"mlp\.Wo", r"mlp\.Wi"), bias="mlp_bias")

WORDS = "embeddings.word_embeddings.weight"
BERT_NAMES = CheckpointNames((BERT,), embedding=f"bert.{WORDS}", tied=())
ROBERTA_NAMES = CheckpointNames((BERT,), embedding=f"roberta.{WORDS}", tied=(), numbers_after_padding=True)

# --- the rows --------------------------------------------------------------------------------------------------------

ENCODERS: tuple[ModelFamily, ...] = (
    ModelFamily(
        "bert",
        "classifier",
        "BertForSequenceClassification",
        BERT_NAMES,
        NO_HEADS,
        NO_SGLANG,
        pretrained=PretrainedHead(("BertModel", "BertForMaskedLM", "BertForPreTraining"), r"cls\..*"),
    ),
    ModelFamily(
        "roberta",
        "classifier",
        "RobertaForSequenceClassification",
        ROBERTA_NAMES,
        NO_HEADS,
        NO_SGLANG,
        pretrained=PretrainedHead(("RobertaModel", "RobertaForMaskedLM"), r"lm_head\..*"),
    ),
    ModelFamily(
        "distilbert",
        "classifier",
        "DistilBertForSequenceClassification",
        CheckpointNames((DISTILBERT,), heads="n_heads", hidden_size="dim", embedding=f"distilbert.{WORDS}", tied=()),
        NO_HEADS,
        pretrained=PretrainedHead(
            ("DistilBertModel", "DistilBertForMaskedLM"), r"vocab_(transform|layer_norm|projector)\..*"
        ),
    ),
    ModelFamily(
        "xlm-roberta",
        "classifier",
        "XLMRobertaForSequenceClassification",
        ROBERTA_NAMES,
        NO_HEADS,
        NO_SGLANG,
        pretrained=PretrainedHead(("XLMRobertaModel", "XLMRobertaForMaskedLM"), r"lm_head\..*"),
    ),
    ModelFamily(
        "electra",
        "classifier",
        "ElectraForSequenceClassification",
        CheckpointNames((BERT,), embedding=f"electra.{WORDS}", tied=()),
        NO_HEADS,
        pretrained=PretrainedHead(
            ("ElectraModel", "ElectraForPreTraining", "ElectraForMaskedLM"),
            r"(discriminator_predictions|generator_predictions|generator_lm_head)\..*",
        ),
    ),
    ModelFamily(
        "modernbert",
        "classifier",
        "ModernBertForSequenceClassification",
        CheckpointNames((MODERNBERT,), embedding="model.embeddings.tok_embeddings.weight", tied=()),
        NO_HEADS,
        ("vllm",),
        pretrained=PretrainedHead(("ModernBertModel", "ModernBertForMaskedLM"), r"decoder\..*"),
        first_layer=FirstLayer("the first layer has no norm in front of its attention"),
    ),
    ModelFamily(
        "deberta-v2",
        "classifier",
        "DebertaV2ForSequenceClassification",
        CheckpointNames((BERT,), positions_where="position_biased_input", embedding=f"deberta.{WORDS}", tied=()),
        NO_HEADS,
        pretrained=PretrainedHead(
            ("DebertaV2Model", "DebertaV2ForMaskedLM"), r"(cls|lm_predictions|mask_predictions)\..*"
        ),
        first_layer=FirstLayer("a convolution follows the first layer", has_convolution),
    ),
)
