-- Enqueues the next attempt of a queued job where its tenant has a slot for it; 0 where the job has to wait for one.
--
-- KEYS: see `job_keys`. ARGV: tenant, job id, slot request as JSON, payload of the RQ job.
return take_slot_and_enqueue(job_keys(KEYS), ARGV[1], ARGV[2], cjson.decode(ARGV[3]), ARGV[4])
