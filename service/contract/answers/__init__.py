"""What the service answers: jobs, results, reports, listings and the files of a job."""
