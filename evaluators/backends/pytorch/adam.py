"""Adam for the fine-tuning loop: torch's own kernels, without `torch.optim.Optimizer` around them.

The first step of any `torch.optim` optimiser imports TorchDynamo, whether or not anything is ever
compiled: two seconds and 90 MB of every worker process. The updates are the same bit for bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

__all__ = ["Adam"]


class Adam:
    """Kingma & Ba 2014, arXiv 1412.6980, in one fused kernel for all parameters.

    `torch.amp.GradScaler.step` takes it for an optimiser that scales its gradients itself: it reads
    `param_groups` and sets `grad_scale` and `found_inf` for the length of a step.

    Attributes:
        learning_rate: of the next step.
        param_groups: the parameters, as torch's optimisers list them.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, betas: tuple[float, float]
    ) -> None:
        """Take the parameters.

        Args:
            parameters: float32, each on the device it is trained on.
            learning_rate: see the attribute.
            betas: decay of the first and the second moment.
        """
        self.learning_rate, self.betas = learning_rate, betas
        self.param_groups = [{"params": list(parameters)}]
        #: Parameter's place -> (first moment, second moment, steps).
        self._moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        parameters, gradients, moments = [], [], []
        for place, parameter in enumerate(self.param_groups[0]["params"]):
            if parameter.grad is None:
                continue
            if place not in self._moments:
                self._moments[place] = (
                    torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    torch.zeros((), dtype=torch.float32, device=parameter.device),
                )
            parameters.append(parameter)
            gradients.append(parameter.grad)
            moments.append(self._moments[place])
        adam(
            parameters,
            gradients,
            [first for first, _, _ in moments],
            [second for _, second, _ in moments],
            [],
            [steps for _, _, steps in moments],
            fused=True,
            # Set by GradScaler, which deletes them after the step.
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
