"""A network under compression: its weights as a file would hold them, and what is established."""

from collections.abc import Mapping

import numpy as np
import tf_keras as keras

from evaluators.artifacts.packed import Artifact, FloatTensor, dense
from evaluators.artifacts.packed import Tensor as Stored
from evaluators.backends.keras.network import Network
from evaluators.backends.keras.rounding import stored_tensor
from evaluators.backends.keras.treatment import Cluster, Kept, Prune, Quantize, Treatment
from evaluators.backends.keras.wrap import read_out, wrapped
from spaces import Failure, LayerAudit, LayerPolicy, Policy, Stage, tensor_name
from spaces.profile import ONE_SCALE_KINDS

__all__ = ["Student", "policy_failure"]


class Student:
    """Between stages its weights are arrays; during one, variables inside TFMOT's wrappers."""

    def __init__(self, network: Network, policy: Policy) -> None:
        """Args: network: the trained one; policy: what its layers will be asked."""
        self.network, self.policy = network, policy
        self.done: list[Stage] = []
        self.artifact = _artifact(network, network.weights, Policy(), [])
        #: In training, or as the last stage left it.
        self._live: keras.Model | None = None

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Tensor -> float32 values, bit for bit what the file gives back."""
        return dense(self.artifact)

    def start(self, stage: Stage, steps: int) -> keras.Model:
        """The network to fine-tune in a stage, everything established in force.

        Args:
            stage: the one that begins.
            steps: of its fine-tuning, for the pruning schedule.
        """
        self.done.append(stage)
        if stage is not Stage.DISTILL or self._live is None:
            # Distillation constrains no weight, so it goes on under the wrappers that are there.
            treatments = self._treatments(stage, steps)
            self._live = wrapped(self.network, self.weights, treatments)
        return self._live

    def _treatments(self, stage: Stage, steps: int) -> dict[str, Treatment]:
        policy, found = self.policy, dict[str, Treatment]()
        for name, asked in policy.layers:
            pruned = Stage.PRUNE in self.done and asked.sparsity > 0
            clustered = Stage.CLUSTER in self.done and asked.clusters is not None
            if stage is Stage.PRUNE and pruned:
                found[name] = Prune(asked.sparsity, steps)
            elif stage is Stage.CLUSTER and asked.clusters is not None:
                found[name] = Cluster(asked.clusters, policy.cluster_init)
            elif Stage.QUANTIZE in self.done and asked.bits < 16:
                per_channel = policy.granularity == "channel" and not clustered
                found[name] = Quantize(per_channel, pruned or clustered, clustered)
            elif clustered:
                found[name] = Kept(asked.clusters)
            elif pruned:
                found[name] = Kept(None)
        return found

    def skip(self, stage: Stage) -> None:
        """A stage without a step: only what it establishes by itself."""
        self.done.append(stage)
        self._live = None
        if stage is Stage.CLUSTER:  # k-means starts where TFMOT's wrapper does
            self._live = wrapped(self.network, self.weights, self._treatments(stage, 0))
        self.settle()
        self._live = None

    def settle(self) -> None:
        """The end of a stage: its weights as a file would hold them."""
        values = self.weights if self._live is None else read_out(self.network, self._live)
        if Stage.PRUNE in self.done:
            for name, asked in self.policy.layers:
                if asked.sparsity > 0:
                    weight = tensor_name(name, "weight")
                    values[weight] = _at_least(values[weight], asked.sparsity)
        self.artifact = _artifact(self.network, values, self.policy, self.done)

    def audit(self) -> dict[str, LayerAudit]:
        """Sparsity and distinct non-zero values of every layer's weights."""
        audits, weights = {}, self.weights
        for name in self.network.layers:
            weight = weights[tensor_name(name, "weight")]
            nonzero = weight[weight != 0]
            audits[name] = LayerAudit(
                sparsity=round(1.0 - nonzero.size / weight.size, 6),
                distinct_nonzero=len(np.unique(nonzero)),
            )
        return audits


def _at_least(weight: np.ndarray, sparsity: float) -> np.ndarray:
    """The weight with the smallest magnitudes 0, where its ramp had too few steps to reach them."""
    missing = round(sparsity * weight.size) - int((weight == 0).sum())
    if missing <= 0:
        return weight
    magnitude = np.where(weight == 0, np.inf, np.abs(weight)).ravel()
    pruned = weight.ravel().copy()
    pruned[np.argsort(magnitude, kind="stable")[:missing]] = 0
    return pruned.reshape(weight.shape)


def _artifact(
    network: Network, values: Mapping[str, np.ndarray], policy: Policy, done: list[Stage]
) -> Artifact:
    tensors: list[Stored] = []
    quantized, clustered = Stage.QUANTIZE in done, Stage.CLUSTER in done
    constrained = {}
    for name, layer in network.layers.items():
        asked = policy.layer(name)
        per_channel = policy.granularity == "channel" and layer.kind not in ONE_SCALE_KINDS
        clusters = clustered and asked.clusters is not None
        constrained[tensor_name(name, "weight")] = (
            clusters,
            asked.bits if quantized else 32,
            # One scale where the layer is clustered, now or later: see `Policy.granularity`.
            per_channel and asked.clusters is None,
        )
        bias_bits = asked.bias_bits if quantized else 32
        constrained[tensor_name(name, "bias")] = (False, bias_bits, False)
    for name, array in values.items():
        clusters, bits, per_channel = constrained.get(name, (False, 32, False))
        if name not in constrained:
            tensors.append(FloatTensor(name, array))
            continue
        tensors.append(
            stored_tensor(name, array, clusters=clusters, bits=bits, per_channel=per_channel)
        )
    return Artifact(tuple(tensors), {})


def policy_failure(policy: Policy, network: Network) -> Failure | None:
    """What TFMOT or its kernels cannot honour, naming layer, stage and reason; None when nothing.

    The search space offers none of it; a policy may come from elsewhere.
    """
    order = [stage for stage in policy.order if stage is not Stage.DISTILL]
    wanted = [s for s in (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE) if s in order]
    for stage, right in zip(order, wanted, strict=True):
        if stage is not right:
            why = f"TFMOT has no {right.value} that keeps what {stage.value} established"
            return Failure(_first_layer(policy, right), right, why)
    rules: tuple[tuple[bool, Stage, str], ...] = (
        (policy.activation_bits != 32, Stage.QUANTIZE, "8-bit activations are not built for Keras"),
        (policy.distillation.kind == "attention", Stage.DISTILL, "Keras has no attention transfer"),
        (policy.criterion != "magnitude", Stage.PRUNE, "TFMOT prunes by magnitude only"),
    )
    for is_broken, at, why in rules:
        if is_broken:
            return Failure("", at, why)
    failures = (_layer_failure(name, asked, policy, network) for name, asked in policy.layers)
    return next((failure for failure in failures if failure is not None), None)


def _first_layer(policy: Policy, stage: Stage) -> str:
    """The first layer that a stage would work on."""
    others = [other for other in Stage if other is not stage]
    return next(name for name, asked in policy.layers if asked.without(others) != LayerPolicy())


def _layer_failure(
    name: str, asked: LayerPolicy, policy: Policy, network: Network
) -> Failure | None:
    if name not in network.layers:
        known = ", ".join(network.layers)
        return Failure(name, "", f"the network has no such layer to compress; it has {known}")
    has_bias = network.layers[name].has_bias
    rules = (
        (asked.pattern == "channel", Stage.PRUNE, "TFMOT prunes single weights, no channels"),
        (asked.clusters == 1, Stage.CLUSTER, "TFMOT needs 2 clusters or more"),
        (asked.bits not in (8, 16, 32), Stage.QUANTIZE, "TFLite's kernels have 8, 16 or 32 bits"),
        (
            asked.bits < 16 and policy.scheme != "symmetric",
            Stage.QUANTIZE,
            "TFLite's kernels take symmetric weights only",
        ),
        (asked.bias_bits not in (16, 32), Stage.QUANTIZE, "bias_bits are 16 or 32 in TFLite"),
        (
            asked.bias_bits != 32 and not has_bias,
            Stage.QUANTIZE,
            "bias_bits asked of a layer without a bias",
        ),
    )
    return next((Failure(name, stage, why) for broken, stage, why in rules if broken), None)
