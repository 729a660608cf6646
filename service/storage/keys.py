"""The keys of the objects in storage."""


def job_prefix(tenant: str, job_id: str) -> str:
    """Everything that a job has ever stored."""
    return f"{tenant}/jobs/{job_id}/"


def attempt_prefix(tenant: str, job_id: str, attempt: int) -> str:
    """The files of one attempt; an artifact named `model/config.json` lies at this prefix plus its name."""
    return f"{job_prefix(tenant, job_id)}attempt-{attempt}/"


def manifest_key(tenant: str, job_id: str) -> str:
    """The `Manifest` of the attempt that succeeded; written last, by `put_if_absent`."""
    return f"{job_prefix(tenant, job_id)}manifest.json"


def dataset_prefix(tenant: str, dataset_id: str) -> str:
    return f"{tenant}/datasets/{dataset_id}/"


def dataset_key(tenant: str, dataset_id: str) -> str:
    """The rows of `dataset://{dataset_id}` as JSON Lines."""
    return f"{dataset_prefix(tenant, dataset_id)}rows.jsonl"


def score_prefix(tenant: str, digest: str) -> str:
    return f"{tenant}/scores/{digest}/"


def score_key(tenant: str, digest: str, sha256: str) -> str:
    """The safetensors file of a score set; named by its content, so that two writers never mix theirs."""
    return f"{score_prefix(tenant, digest)}{sha256}.safetensors"
