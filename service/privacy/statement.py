"""The statement beside a file of private rows: what is guaranteed, what each row costs, and what is not guaranteed."""

import json
from statistics import median
from typing import Any

from service.privacy.model_tokens import ModelTokens
from service.privacy.private_rows import Mechanism, PrivateRows

FROM_SYSTEM = "the operating system's cryptographic generator"
FROM_SEED = "a seed: whoever knows it can undo the replacement, so that nothing is guaranteed"


def budgets(made: PrivateRows, mechanism: Mechanism, label_epsilon: float | None) -> list[float]:
    """What each row costs: the budgets of its tokens and of its label decisions, added up (sequential composition)."""
    of_labels = made.decisions * (label_epsilon or 0)
    return [count * mechanism.local_epsilon + of_labels for count in made.tokens]


def statement(
    made: PrivateRows, mechanism: Mechanism, model: ModelTokens, label_epsilon: float | None, *, seeded: bool
) -> dict[str, Any]:
    """The content of the file. `private` depends on the rows in ways that the guarantee does not cover."""
    costs = budgets(made, mechanism, label_epsilon)
    return {
        "guarantee": {
            "holds": not seeded,
            "random_numbers": FROM_SEED if seeded else FROM_SYSTEM,
            "mechanism": mechanism.name,
            "epsilon": mechanism.epsilon,
            "local_epsilon_per_token": mechanism.local_epsilon,
            "label_epsilon": label_epsilon if made.decisions else None,
            "label_decisions_per_row": made.decisions,
            "model": model.uri,
            "embedding_table_sha256": model.table_sha256,
            "candidates": len(model.space.candidate_K),
        },
        "rows": {
            "count": len(made.rows),
            "tokens": {"median": median(made.tokens), "max": max(made.tokens)},
            "budget": {"median": median(costs), "max": max(costs)},
        },
        "private": {
            "tokens": sum(made.tokens),
            "tokens_unchanged": made.unchanged.tokens,
            "rare_in_fewer_rows_than": made.unchanged.rare_rows,
            "rare_tokens": made.unchanged.rare_tokens,
            "rare_tokens_unchanged": made.unchanged.rare_unchanged,
        },
    }


def as_json(content: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
