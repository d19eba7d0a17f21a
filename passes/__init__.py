"""Passes over ONNX models: clean-ups, matching, selection, rewriting, and the whole of ``graphopt apply``."""
