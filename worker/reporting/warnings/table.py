"""The warnings of a report: a table of checks, each a pure function from the report to a message or None.

A message states a fact about this job with its figures, and what to do about it.
"""

from collections.abc import Callable

from service.contract.answers.report import Report, ReportWarning
from worker.reporting.warnings import answers, inputs, slim_model

CHECKS: dict[str, Callable[[Report], str | None]] = {
    "not_pushed": slim_model.not_pushed,
    "judged_by_dense": answers.judged_by_dense,
    "dense_fails": answers.dense_fails,
    "at_majority": answers.at_majority,
    "offsets_mislead": answers.offsets_mislead,
    "one_answer": answers.one_answer,
    "damage_in_one_class": answers.damage_in_one_class,
    "empty_answers": answers.empty,
    "repetition": answers.repetition,
    "collapse": answers.collapse,
    "unresolved_loss": answers.unresolved_loss,
    "shortened_prompts": inputs.shortened_prompts,
    "dequantised": inputs.dequantised,
    "overflows_in_half": inputs.overflows_in_half,
    "rounded_weights": inputs.rounded_weights,
    "special_tokens_in_template": inputs.special_tokens_in_template,
    "ratio_rounded": slim_model.ratio_rounded,
    "above_latency": slim_model.above_latency,
    "below_floor": slim_model.below_floor,
    "per_layer_widths": slim_model.per_layer_widths,
    "few_written": inputs.few_written,
    "no_rationales": inputs.no_rationales,
    "not_recovered": slim_model.not_recovered,
    "fewer_experts_per_token": slim_model.fewer_experts_per_token,
    "experts_without_tokens": slim_model.experts_without_tokens,
    "more_tokens": slim_model.more_tokens,
    "uneven_machine": slim_model.uneven_machine,
}


def warnings(report: Report) -> list[ReportWarning]:
    """The warnings that apply to a report, in the order of `CHECKS`."""
    found = ((code, check(report)) for code, check in CHECKS.items())
    return [ReportWarning(code=code, message=message) for code, message in found if message]
