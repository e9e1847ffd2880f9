"""What is Keras' own: networks from files, what is refused, TFMOT's faults, LiteRT's files."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.checker import broken_constraints
from evaluators.workloads.keras import KerasWorkload
from evaluators.workloads.registry import backend_of
from spaces import Failure, InvalidRequest, LayerPolicy, Policy, Stage
from spaces.policy import CLUSTER_INITS
from tests import keras_networks
from tests.evaluators.backends.conftest import Bench

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
                 "--max-drop", "10", "--trials", "4", "--finalists", "1", "--workers", "1",
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

    def test_an_lstm_is_two_layers_and_an_embedding_one(self) -> None:
        from evaluators.backends.keras.network import Network

        network = Network(keras_networks.lstm().model)
        found = {n: (x.kind, x.shape, x.has_bias, x.macs) for n, x in network.layers.items()}
        assert found == {
            "embed": ("Embedding", (40, 8), False, 0),
            "lstm.input": ("LSTM", (48, 8), True, 12 * 48 * 8),
            "lstm.recurrent": ("LSTM", (48, 12), False, 12 * 48 * 12),
            "fc": ("Linear", (4, 12), True, 48),
        }
        assert network.excluded == ()
        again = network.read(network.with_weights(network.weights))
        assert all(np.array_equal(again[n], v) for n, v in network.weights.items())
        kernel = network.model.get_layer("lstm").cell.kernel.numpy()
        assert np.array_equal(network.weights["lstm.input.weight"], kernel.T)

    @pytest.mark.parametrize(
        "options",
        [{}, {"return_sequences": True}, {"go_backwards": True}, {"use_bias": False}],
        ids=["plain", "sequences", "backwards", "no bias"],
    )
    def test_an_lstm_that_is_quick_to_trace_gives_keras_numbers(
        self, options: dict[str, Any]
    ) -> None:
        """Outputs and gradients, with padding masked; and it is traced without cuDNN's twin."""
        import tensorflow as tf
        import tf_keras as keras

        from evaluators.backends.keras.network import Network

        layers = keras.layers
        given = keras.Sequential(
            [
                layers.InputLayer((12,), dtype="int32"),
                layers.Embedding(40, 8, mask_zero=True, name="embed"),
                layers.LSTM(12, name="lstm", **options),
                layers.Dense(4, name="fc"),
            ]
        )
        network = Network(given)
        plain = network.with_weights(network.weights)
        ids = np.random.default_rng(0).integers(0, 4, (5, 12)).astype(np.int32)
        found = []
        for model in (given, plain, network.for_converter(network.weights)):
            with tf.GradientTape() as tape:
                outputs = model(ids, training=True)
                loss = tf.reduce_sum(outputs**2)
            gradients = tape.gradient(loss, model.trainable_variables)
            found.append([outputs.numpy(), *(tf.convert_to_tensor(g).numpy() for g in gradients)])
        for other in found[1:]:
            for ours, keras_own in zip(other, found[0], strict=True):
                np.testing.assert_allclose(ours, keras_own, rtol=1e-5, atol=1e-6)

        def has_twin(model: Any) -> bool:
            graph = tf.function(lambda: model(ids)).get_concrete_function().graph.as_graph_def()
            return any("gpu_lstm" in f.signature.name for f in graph.library.function)

        assert not has_twin(plain)
        if options.get("use_bias", True):
            assert has_twin(given), "Keras has none any more: the class has no purpose"

    def test_recurrent_layers_that_are_kept_are_named(self) -> None:
        import tf_keras as keras

        from evaluators.backends.keras.network import Network

        layers = keras.layers
        given = keras.Input((5, 3))
        first = layers.GRU(4, return_sequences=True, name="g")(given)
        second, state, cell = layers.LSTM(4, return_sequences=True, return_state=True)(first)
        third = layers.LSTM(4, name="l")(second, initial_state=[state, cell])
        model = keras.Model(given, layers.Dense(2, name="d")(third))
        excluded = dict(Network(model).excluded)
        assert excluded["g"] == "GRU layers are not supported yet, kept as they are"
        assert excluded["l"].startswith("an LSTM that is given a state")


@needs_keras
class TestConstraints:
    """Our own wrapper, alone."""

    @pytest.fixture(autouse=True)
    def prepared(self) -> None:
        from evaluators.backends.keras.process import prepare

        prepare()

    @staticmethod
    def trained(treatment: Any, zeros: float = 0.0, steps: int = 40) -> tuple[Any, Any]:
        """((start, trained) of an embedding, of an LSTM's recurrent matrix) after some steps."""
        import tensorflow as tf
        import tf_keras as keras

        from evaluators.backends.keras.constrained import Constrained
        from evaluators.backends.keras.network import Network
        from evaluators.backends.keras.wrap import read_out, wrapped

        network = Network(keras_networks.lstm().model)
        names = ("embed", "lstm.recurrent")
        start = dict(network.weights)
        for name in names:
            weight = start[f"{name}.weight"]
            cut = np.quantile(np.abs(weight), zeros)
            start[f"{name}.weight"] = np.where(np.abs(weight) < cut, np.float32(0), weight)
        live = wrapped(network, start, dict.fromkeys(names, treatment))
        optimiser = keras.optimizers.legacy.Adam(0.01)
        inputs, targets = keras_networks.texts()[0]

        def step() -> None:
            with tf.GradientTape() as tape:
                outputs = live(inputs[:40], training=True)
                losses = keras.losses.sparse_categorical_crossentropy(targets[:40], outputs)
                loss = tf.reduce_mean(losses)
            found = tape.gradient(loss, live.trainable_variables)
            pairs = zip(found, live.trainable_variables, strict=True)
            optimiser.apply_gradients([(g, v) for g, v in pairs if g is not None])

        compiled = tf.function(step, autograph=False)
        ours = [layer for layer in live.layers if isinstance(layer, Constrained)]
        assert len(ours) == 2
        for _ in range(steps):
            for layer in ours:
                layer.advance()
            compiled()
        found = read_out(network, live)
        assert not np.array_equal(found["lstm.input.weight"], start["lstm.input.weight"])
        embed, recurrent = ((start[f"{n}.weight"], found[f"{n}.weight"]) for n in names)
        return embed, recurrent

    def test_a_mask_moves_to_its_sparsity_and_never_back(self) -> None:
        from evaluators.backends.keras.treatment import Prune

        for start, found in self.trained(Prune(0.75, 40), zeros=0.2):
            assert (found == 0).mean() == pytest.approx(0.75, abs=0.01)
            assert (found[start == 0] == 0).all()

    def test_zeros_stay(self) -> None:
        from evaluators.backends.keras.treatment import Kept

        for start, found in self.trained(Kept(None), zeros=0.5):
            assert np.array_equal(start == 0, found == 0)
            assert not np.array_equal(start, found)

    @pytest.mark.parametrize("init", CLUSTER_INITS)
    def test_values_are_shared_beside_zeros(self, init: str) -> None:
        from evaluators.backends.keras.treatment import Cluster

        for start, found in self.trained(Cluster(5, init), zeros=0.5):
            assert len(np.unique(found[found != 0])) <= 5
            assert np.array_equal(start == 0, found == 0)

    def test_assignments_stay_once_they_are_established(self) -> None:
        from evaluators.backends.keras.treatment import Kept, Quantize

        for treatment in (Kept(400), Quantize(False, keeps_zeros=True, keeps_clusters=True)):
            for start, found in self.trained(treatment, zeros=0.3):
                values = np.unique(start[start != 0])
                for value in values[:: len(values) // 20]:
                    assert len(np.unique(found[start == value])) == 1
                assert np.array_equal(start == 0, found == 0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The tiny LSTM in LiteRT files."""
    folder = tmp_path_factory.mktemp("keras-lstm")
    return Bench(keras_networks.name("lstm"), folder, "pixel", "tflite")


@needs_keras
@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="LiteRT is not installed")
class TestLstmFiles:
    """A whole recurrent network through its policy into LiteRT."""

    @staticmethod
    def policy(*order: Stage, granularity: str = "tensor", **changes: LayerPolicy) -> Policy:
        layers = {"embed": changes["embed"], "lstm.input": changes["input"]}
        layers |= {"lstm.recurrent": changes["recurrent"], "fc": LayerPolicy(bits=8)}
        return Policy(order, tuple(layers.items()), granularity=granularity)

    def test_a_file_holds_what_was_trained_and_runs_without_tensorflow(self, bench: Bench) -> None:
        from evaluators.artifacts.tflite.read import read

        eight = LayerPolicy(bits=8)
        stages = (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE)
        both = LayerPolicy(sparsity=0.5, clusters=6, bits=8)
        policy = self.policy(
            *stages, embed=eight, input=both, recurrent=eight, granularity="channel"
        )
        measured = bench.measure(policy)
        path = bench.file(measured)
        assert measured.size_bytes == path.stat().st_size
        assert sum(line.size_bytes for line in measured.ledger) == measured.size_bytes
        weights = read(path.read_bytes()).weights
        assert broken_constraints(policy, weights) == []
        assert bench.worker.verify(path).metric == measured.metric
        inputs, targets = keras_networks.texts()[1]
        np.savez(path.with_suffix(".npz"), inputs=inputs, targets=targets)
        script = (
            "import sys, numpy as np\n"
            "from evaluators.artifacts.tflite.runtime import Session\n"
            "data = np.load(sys.argv[2])\n"
            "found = Session(open(sys.argv[1], 'rb').read())(data['inputs']).argmax(1)\n"
            "assert 'tensorflow' not in sys.modules\n"
            "print((found == data['targets']).mean())"
        )
        command = [sys.executable, "-c", script, str(path), str(path.with_suffix(".npz"))]
        fresh = subprocess.run(command, capture_output=True, check=True, text=True)
        assert float(fresh.stdout) == pytest.approx(measured.metric, abs=1e-9)

    def test_matrices_of_different_bits(self, bench: Bench) -> None:
        sixteen, eight = LayerPolicy(bits=16), LayerPolicy(bits=8)
        policy = self.policy(Stage.QUANTIZE, embed=sixteen, input=eight, recurrent=sixteen)
        assert bench.measure(policy, fidelity=0).metric > 0.9

    @pytest.mark.parametrize(
        ("layer", "asked", "stage", "reason"),
        [
            ("embed", LayerPolicy(bits=3), "quantize", "TFLite's kernels have 8, 16 or 32 bits"),
            ("lstm.input", LayerPolicy(0.5, "channel"), "prune", "single weights, no channels"),
            ("lstm.recurrent", LayerPolicy(bias_bits=16), "quantize", "without a bias"),
            ("lstm", LayerPolicy(sparsity=0.5), "", "it has embed, lstm.input, lstm.recurrent, fc"),
        ],
    )
    def test_what_cannot_be_honoured(
        self, bench: Bench, layer: str, asked: LayerPolicy, stage: str, reason: str
    ) -> None:
        outcome = bench.outcome(Policy((Stage.PRUNE, Stage.QUANTIZE), ((layer, asked),)))
        assert isinstance(outcome, Failure)
        assert (outcome.layer, outcome.stage) == (layer, stage)
        assert reason in outcome.reason


@needs_keras
def test_what_was_traced_is_forgotten(tmp_path: Path) -> None:
    """Else a worker grows by what TFMOT's clustering traces in each trial, for ever."""
    bench = Bench(keras_networks.name("mlp"), tmp_path)
    names = [layer.name for layer in bench.worker.profile.layers]
    policy = Policy((Stage.CLUSTER,), tuple((name, LayerPolicy(clusters=4)) for name in names))
    bench.measure(policy)
    from tensorflow.python.framework.ops import gradient_registry

    assert not [name for name in gradient_registry.list() if name.startswith("CustomGradient-")]
