"""Running models: onnxruntime sessions, the reference runtime, comparing numbers, measuring time."""
