"""The keys of the objects in the store. No other module builds them."""

DATASET_START = "dataset://"  # of the URI of a data set


def job_prefix(tenant: str, job_id: str) -> str:
    """The prefix of everything that a job stores."""
    return f"{tenant}/jobs/{job_id}/"


def attempt_prefix(tenant: str, job_id: str, attempt: int) -> str:
    """The prefix of the files of an attempt; an artifact's key is this prefix and its name, as `model/config.json`."""
    return f"{job_prefix(tenant, job_id)}attempt-{attempt}/"


def shards_prefix(tenant: str, job_id: str) -> str:
    """The prefix of what the shards of a job have measured; it goes when the job ends."""
    return f"{job_prefix(tenant, job_id)}shards/"


def shard_prefix(tenant: str, job_id: str, number: int) -> str:
    """The prefix of what one shard has measured."""
    return f"{shards_prefix(tenant, job_id)}{number}/"


def shard_key(tenant: str, job_id: str, number: int, name: str) -> str:
    """A safetensors file of a shard."""
    return f"{shard_prefix(tenant, job_id, number)}{name}.safetensors"


def manifest_key(tenant: str, job_id: str) -> str:
    """The `Manifest` of the attempt that succeeded. It is written last, by `put_if_absent`."""
    return f"{job_prefix(tenant, job_id)}manifest.json"


def dataset_uri(dataset_id: str) -> str:
    """The URI by which a request names a data set."""
    return f"{DATASET_START}{dataset_id}"


def dataset_id_of(uri: str) -> str:
    """The id of the data set that a URI names."""
    return uri.removeprefix(DATASET_START)


def are_of_request(uri: str) -> bool:
    """Whether a URI names rows that a request held and that were stored with the job, `dataset://JOB/NAME`."""
    return uri.startswith(DATASET_START) and "/" in dataset_id_of(uri)


def dataset_prefix(tenant: str, dataset_id: str) -> str:
    """The prefix of the files of a data set."""
    return f"{tenant}/datasets/{dataset_id}/"


def dataset_key(tenant: str, dataset_id: str) -> str:
    """The rows of `dataset://{dataset_id}` as JSON Lines."""
    return f"{dataset_prefix(tenant, dataset_id)}rows.jsonl"


def score_prefix(tenant: str, digest: str) -> str:
    """The prefix of the files of a score set."""
    return f"{tenant}/scores/{digest}/"


def score_key(tenant: str, digest: str, sha256: str) -> str:
    """The safetensors file of a score set. Its name is its digest, so that two writers never overwrite each other."""
    return f"{score_prefix(tenant, digest)}{sha256}.safetensors"
