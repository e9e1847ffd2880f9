"""The `.tflite` format: LiteRT flatbuffers with a policy's own codes in them (extra `keras`)."""
