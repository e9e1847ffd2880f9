"""The Keras backend: tf_keras with tensorflow-model-optimization, in worker processes only."""
