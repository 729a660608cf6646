"""The rows of data sets: what they hold, and what a task needs of them."""
