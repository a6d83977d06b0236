"""Batches at work: their lines are read, asked inside the house, noted on the disk and put together."""
