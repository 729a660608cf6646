"""What a stage does where the memory runs out."""
