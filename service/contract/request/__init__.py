"""What a job asks for: its model, tasks, method, target and output, and the presets that complete a task."""
