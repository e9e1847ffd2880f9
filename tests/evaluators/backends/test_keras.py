"""What is Keras' own: networks from files, what is refused, TFMOT's faults, LiteRT's files."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from evaluators.workloads.keras import KerasWorkload
from evaluators.workloads.registry import backend_of
from spaces import InvalidRequest
from tests import keras_networks

ROOT = Path(__file__).parents[3]
needs_keras = pytest.mark.skipif(
    find_spec("tensorflow_model_optimization") is None, reason="the extra keras is not installed"
)

#: A driver's whole run; its last line says what it imported itself.
DRIVER = """
import contextlib, io, json, sys
from search.cli.main import main
out = io.StringIO()
with contextlib.redirect_stdout(out):
    code = main(["run", "my_keras.py:workload", "--target", "pixel", "--budget-kb", "4",
                 "--max-drop", "10", "--trials", "6", "--finalists", "1", "--workers", "1",
                 "--json"])
answer = json.loads(out.getvalue())
heavy = [m for m in ("tensorflow", "tf_keras", "torch", "ai_edge_litert") if m in sys.modules]
print(json.dumps([code, answer["file"], answer["pick"]["size_bytes"], heavy]))
"""


def save_example(folder: Path, name: str) -> None:
    import tf_keras as keras

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 16)).astype(np.float32)
    y = (x[:, :4] + 0.5 * x[:, 4:8]).argmax(axis=1)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.InputLayer((16,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.legacy.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(x[:800], y[:800], epochs=8, verbose=0)
    model.save(folder / name)
    np.savez(folder / "data.npz", x=x, y=y)


@needs_keras
def test_the_readme_example_runs_and_its_driver_imports_no_framework(tmp_path: Path) -> None:
    from evaluators.backends.keras.process import prepare

    prepare()
    save_example(tmp_path, "net.keras")
    example = (ROOT / "docs" / "examples" / "my_keras.py").read_text(encoding="utf-8")
    (tmp_path / "my_keras.py").write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    code, file, size_bytes, heavy = json.loads(done.stdout.splitlines()[-1])
    assert (code, heavy) == (0, [])
    assert file.endswith(".tflite")
    data = (tmp_path / file).read_bytes()
    assert len(data) == size_bytes <= 4000
    script = (
        "import sys, numpy as np\nfrom evaluators.artifacts.tflite.runtime import Session\n"
        "outputs = Session(open(sys.argv[1], 'rb').read())(np.zeros((3, 16), np.float32))\n"
        "assert 'tensorflow' not in sys.modules\nprint(outputs.shape, outputs.sum().round(3))"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / file)], capture_output=True, check=True
    )
    assert fresh.stdout.decode().strip() == "(3, 4) 3.0"


def test_a_file_is_known_as_keras_before_its_code_runs(tmp_path: Path) -> None:
    assert backend_of(keras_networks.name("mlp")) == "keras"
    assert backend_of("cnn-mnist-keras") == "keras"
    assert backend_of("cnn-mnist") == "torch"
    other = tmp_path / "net.py"
    other.write_text("import torch\n", encoding="utf-8")
    assert backend_of(f"{other}:make") == "torch"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.backends.keras import process

    monkeypatch.setattr(process, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match=r"needs tensorflow, .*compression-search\[keras\]"):
        process.check_installed()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": np.zeros(3)}, "train must be a pair"),
        ({"test": (np.zeros(3), np.zeros(2))}, "test must have as many inputs as targets"),
        ({"validation": (np.zeros((0, 2)), np.zeros(0))}, "validation must have .* at least one"),
        ({"model": "nowhere.h5"}, r"there is no file or folder nowhere\.h5"),
    ],
)
def test_data_that_is_refused(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {
        "name": "w",
        "model": None,
        "train": (np.zeros((2, 2)), np.zeros(2, int)),
        "validation": (np.zeros((2, 2)), np.zeros(2, int)),
    }
    with pytest.raises(InvalidRequest, match=message):
        KerasWorkload(**(given | change))  # type: ignore[arg-type]


@needs_keras
class TestNetworks:
    """In one process with TensorFlow."""

    @pytest.fixture(autouse=True)
    def prepared(self) -> None:
        from evaluators.backends.keras.process import prepare

        prepare()

    @pytest.mark.parametrize("name", ["net.keras", "net"])
    def test_from_files(self, name: str, tmp_path: Path) -> None:
        from evaluators.backends.keras.network import Network, load_model

        save_example(tmp_path, name)
        network = Network(load_model(tmp_path / name))
        assert [layer.shape for layer in network.layers.values()] == [(64, 16), (4, 64)]
        assert network.gives_probabilities

    def test_networks_that_are_refused(self, tmp_path: Path) -> None:
        import tf_keras as keras

        from evaluators.backends.keras.network import Network, load_model

        class Own(keras.Model):  # type: ignore[misc]
            pass

        inner = keras.Sequential([keras.layers.InputLayer((4,)), keras.layers.Dense(4)])
        nested = keras.Sequential([keras.layers.InputLayer((4,)), inner])
        empty = keras.Sequential([keras.layers.InputLayer((4,)), keras.layers.ReLU()])
        (tmp_path / "bad.h5").write_bytes(b"nothing")
        for model, message in (
            ("text", "tf_keras cannot read text"),
            (tmp_path / "bad.h5", "tf_keras cannot read"),
            (3, "must be a tf_keras.Model .* but got builtins.int"),
            (Own(), "built Sequential or Functional"),
            (nested, "a network inside the network"),
            (empty, "no layer that can be compressed"),
        ):
            with pytest.raises(InvalidRequest, match=message):
                Network(load_model(model))

    def test_tensors_go_out_and_come_back(self) -> None:
        from evaluators.backends.keras.network import Network

        network = Network(keras_networks.conv().model)
        assert network.weights["0.weight"].shape == (8, 1, 3, 3)
        again = network.read(network.with_weights(network.weights))
        assert all(np.array_equal(again[n], v) for n, v in network.weights.items())
        with pytest.raises(InvalidRequest, match=r"the file has no tensor 0\.weight"):
            network.with_weights({})

    def test_a_norm_behind_a_layer_is_folded_into_it(self) -> None:
        import tf_keras as keras

        from evaluators.backends.keras.network import Network

        layers, rng = keras.layers, np.random.default_rng(0)
        model = keras.Sequential(
            [
                layers.InputLayer((6, 6, 2)),
                layers.Conv2D(5, 3, use_bias=False, name="c"),
                layers.BatchNormalization(name="n"),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(3, name="d"),
                layers.BatchNormalization(scale=False, name="m"),
            ]
        )
        model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
        network = Network(model)
        assert network.folded == {"n": "c", "m": "d"}
        assert set(network.weights) == {"c.weight", "c.bias", "d.weight", "d.bias"}
        inputs = rng.normal(size=(4, 6, 6, 2)).astype(np.float32)
        expected = model(inputs, training=False).numpy()
        assert np.allclose(network.model(inputs).numpy(), expected, rtol=1e-4, atol=1e-4)
        assert ("n", "folded into c") in network.excluded

    def test_norms_that_cannot_be_folded_are_kept_and_named(self) -> None:
        import tf_keras as keras

        from evaluators.artifacts.base import CannotHold
        from evaluators.artifacts.packed import Artifact, FloatTensor
        from evaluators.backends.keras.formats import NoRemoval, make_format
        from evaluators.backends.keras.network import Network

        layers = keras.layers
        model = keras.Sequential(
            [
                layers.InputLayer((4,)),
                layers.Dense(3, activation="relu", name="d"),
                layers.BatchNormalization(name="n"),
            ]
        )
        network = Network(model)
        assert network.excluded == (("n", "normalisation, kept as it is"),)
        assert "n.moving_variance" in network.weights
        artifact = Artifact(tuple(FloatTensor(n, v) for n, v in network.weights.items()))
        sample = keras.backend.zeros((1, 4))
        packed = make_format("packed", network, sample)
        assert set(packed.read(packed.write(artifact, NoRemoval())).weights) == set(network.weights)
        with pytest.raises(CannotHold, match="merged it into another tensor"):
            make_format("tflite", network, sample).write(artifact, NoRemoval())

    def test_shared_values_of_a_convolution_are_not_multiplied_by_its_channels(self) -> None:
        """TFMOT alone takes one whose channels have equally many values for one codebook each."""
        import tensorflow as tf
        import tf_keras as keras

        from evaluators.backends.keras.network import Network
        from evaluators.backends.keras.wrap import Quantize, read_out, wrapped

        layers = keras.layers
        model = keras.Sequential(
            [layers.InputLayer((4, 4, 2)), layers.Conv2D(6, 1, name="c", use_bias=False)]
        )
        rng = np.random.default_rng(0)
        kernel = rng.choice(np.float32([-0.5, 0.0, 0.25]), size=(1, 1, 2, 6))
        kernel[0, 0, :, 0] = (0.0, 0.25)
        model.set_weights([kernel])
        network = Network(model)
        live = wrapped(
            network, network.weights, {"c": Quantize(False, keeps_zeros=True, keeps_clusters=True)}
        )
        optimiser = keras.optimizers.legacy.Adam(0.05)
        inputs = rng.normal(size=(16, 4, 4, 2)).astype(np.float32)

        def step() -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((live(inputs, training=True) - 1.0) ** 2)
            found = tape.gradient(loss, live.trainable_variables)
            pairs = zip(found, live.trainable_variables, strict=True)
            optimiser.apply_gradients([(g, v) for g, v in pairs if g is not None])

        compiled = tf.function(step, autograph=False)
        for _ in range(10):
            compiled()
        trained = read_out(network, live)["c.weight"]
        assert len(np.unique(trained[trained != 0])) == 2
        assert (trained[network.weights["c.weight"] == 0] == 0).all()
        assert not np.array_equal(trained, network.weights["c.weight"])
