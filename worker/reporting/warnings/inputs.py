"""What the report warns of in the checkpoint and the rows that came in.

Each check is a pure function from the report to a message or None.
"""

from service.contract.answers.report import Report
from service.reports.formatting import size
from worker.checkpoints.dtypes import OVERFLOWING

NOTABLE_SHARE = 0.1  # of the prompts
KEPT_SHARE = 0.5  # of the written texts


def shortened_prompts(report: Report) -> str | None:
    """Many prompts were longer than the model allows."""
    prompts = report.calibration_examples + report.result.metrics.slim.examples
    if report.shortened_prompts < NOTABLE_SHARE * prompts:
        return None
    return (
        f"{report.shortened_prompts} of {prompts} prompts were cut to the number of tokens that the model takes; their "
        "answers may be about a part of the text. Send shorter rows, or set `max_words`."
    )


def dequantised(report: Report) -> str | None:
    """The dense model is the dequantised one, and its files are smaller than they look."""
    found, weights = report.dequantised, report.result.bytes
    if found is None:
        return None
    return (
        f"The weights of the model are quantised ({found.format}, {size(weights.dense)}). They were dequantised to "
        f"{found.dtype} ({size(found.bytes)}): that is the dense model here, whose activations are not quantised. The "
        f"slim checkpoint is not quantised ({size(weights.slim)}): quantise it again for the size and the speed of "
        "quantised weights."
    )


def overflows_in_half(report: Report) -> str | None:
    """The checkpoint is stored in a dtype that its family cannot be computed in."""
    if report.stored_dtype != "float16" or report.family not in OVERFLOWING:
        return None
    return (
        f"The checkpoint is stored in float16, in which the activations of {report.family} overflow. It was measured "
        f"in {report.computed_dtype}: serve it in bfloat16 or float32, not in float16."
    )


def rounded_weights(report: Report) -> str | None:
    """The files of the model hold numbers that the dtype in config.json cannot hold."""
    if not report.rounded_dtypes:
        return None
    found = " and ".join(report.rounded_dtypes)
    return (
        f"The model has weights in {found}, and its config.json says {report.stored_dtype}, to which transformers "
        f"rounds them: both models were measured so, and the slim checkpoint is in {report.stored_dtype}. Set `dtype` "
        "in config.json to float32 to keep them as they are."
    )


def special_tokens_in_template(report: Report) -> str | None:
    """The template has special tokens of the tokenizer, which were not added a second time."""
    found = report.written_special_tokens
    if not found:
        return None
    return (
        f"The template itself has {', '.join(found)}, which the tokenizer adds to every prompt: each is in the prompt "
        "once. Leave it out of the template, because a server adds it again."
    )


def few_written(report: Report) -> str | None:
    """Most of what a language model wrote is not used."""
    for title, found in report.synthesis.items():
        for name, counts in (("rows", found.rows), ("rationales", found.rationales)):
            if counts is not None and counts.kept < KEPT_SHARE * counts.written:
                reasons = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in counts.dropped.items())
                return (
                    f"{counts.kept} of {counts.written} {name} that {found.writer} wrote for {title} were kept "
                    f"({reasons}): name a model in `synthesis.model` that writes better, or more given rows. "
                    "synthesis.jsonl has them all."
                )
    return None


def no_rationales(report: Report) -> str | None:
    """The training had too few rationales for a stage of their own."""
    asked, found = report.request.recovery, report.result.recovery
    if asked is None or found is None or not asked.reads_rationales or found.rationales is not None:
        return None
    return (
        "Too few rationales were kept to train on some and hold others out: the model was trained on answers alone. "
        "Name a model in `synthesis.model` that writes better rationales."
    )
