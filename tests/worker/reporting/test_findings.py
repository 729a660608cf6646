"""The findings of a report: kept scores, throughput and memory."""

import torch

from service.contract.answers.result import DenseSlim, Quartiles
from worker.evaluation.latency import PassProfile
from worker.reporting.findings import peak_memory, score_kept, throughput

SPREAD = Quartiles(first=0.0, third=0.0)


def test_score_kept_is_the_share_of_the_kept_scores() -> None:
    score_U = torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert score_kept(score_U, torch.tensor([0, 1])) == 0.75
    assert score_kept(score_U, torch.arange(4)) == 1
    assert score_kept(-score_U, torch.tensor([0])) is None


def test_throughput_is_rows_per_second() -> None:
    [found] = throughput([(PassProfile(8, 64, 400.0, 9, SPREAD), PassProfile(8, 64, 200.0, 7, SPREAD))])
    assert (found.dense, found.slim) == (20.0, 40.0)
    assert found.peak_memory_bytes == DenseSlim(dense=9, slim=7)


def test_peak_memory_is_that_of_the_largest_batch() -> None:
    def pair(batch: int, peak: int) -> tuple[PassProfile, PassProfile]:
        return PassProfile(batch, 64, 1.0, peak, SPREAD), PassProfile(batch, 64, 1.0, peak - 1, SPREAD)

    for sizes in ([1, 8], [8, 1], [32, 1, 8]):
        found = peak_memory([pair(batch, batch * 100) for batch in sizes])
        assert found == DenseSlim(dense=max(sizes) * 100, slim=max(sizes) * 100 - 1)
