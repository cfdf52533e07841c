"""Training over planned batches: rows -> samples -> manifest -> plan -> reader -> engine."""
