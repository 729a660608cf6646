"""What a shard of a job measures on its part of the rows, and the measurements of all shards together."""
