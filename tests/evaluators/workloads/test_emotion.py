"""The emotion texts: tokens, the check of what is read, and both networks' accuracy."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from evaluators.workloads import emotion
from spaces import InvalidRequest

needs_data = pytest.mark.skipif(
    not (Path(os.environ.get("SEARCH_DATA", "")) / "emotion" / "train.txt").is_file(),
    reason="SEARCH_DATA names no folder with the emotion texts",
)


def test_padding_stands_in_front_and_long_texts_lose_their_beginning() -> None:
    ids = {"i": 2, "feel": 3}
    rows = emotion.encoded(["i feel odd", "odd " + "feel " * emotion.LENGTH], ids)
    assert rows.shape == (2, emotion.LENGTH)
    assert rows[0].tolist() == [0] * (emotion.LENGTH - 3) + [2, 3, 1]
    assert rows[1].tolist() == [3] * emotion.LENGTH


def test_equally_common_words_are_ranked_by_alphabet() -> None:
    assert emotion.vocabulary(["b a c", "c"]) == {"c": 2, "a": 3, "b": 4}


def test_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_DATA", str(tmp_path))
    emotion.encoded_splits.cache_clear()
    with pytest.raises(InvalidRequest, match=r"must hold emotion/train\.txt"):
        emotion.encoded_splits()
    (tmp_path / "emotion").mkdir()
    for name in emotion.SPLITS:
        (tmp_path / "emotion" / f"{name}.txt").write_text("i feel fine;joy\n", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="other content than the published split"):
        emotion.encoded_splits()


@needs_data
def test_the_torch_baseline_has_its_stated_accuracy() -> None:
    import torch

    from evaluators.workloads.emotion_torch import emotion_lstm_torch

    emotion.encoded_splits.cache_clear()
    workload = emotion_lstm_torch()
    assert workload.test is not None
    assert (len(workload.train), len(workload.test)) == (16_000, 2_000)
    with torch.no_grad():
        found = workload.model(workload.validation.inputs).argmax(1)
    assert float((found == workload.validation.targets).float().mean()) == pytest.approx(0.929)


@needs_data
@pytest.mark.skipif(
    find_spec("tensorflow_model_optimization") is None, reason="the extra keras is not installed"
)
def test_the_keras_network_computes_what_the_torch_one_does() -> None:
    import torch

    from evaluators.backends.keras.process import prepare
    from evaluators.workloads.emotion_torch import emotion_lstm_torch

    prepare()
    from evaluators.workloads.emotion_keras import emotion_lstm

    emotion.encoded_splits.cache_clear()
    keras_workload, torch_workload = emotion_lstm(), emotion_lstm_torch()
    assert keras_workload.model.count_params() == 339_922
    ids = keras_workload.validation.inputs[:100]
    with torch.no_grad():
        expected = torch_workload.model(torch.from_numpy(ids).long()).softmax(1).numpy()
    assert np.allclose(keras_workload.model(ids).numpy(), expected, atol=1e-4)
