"""Monte Carlo arithmetic: a model run as if everything in it were rounded to a coarser dtype.

Where no known-good code exists at the subject's precision, a capture made so can be the control:
every weight and every module's output is multiplied by 1 + u e, with u the dtype's unit roundoff
and e uniform in [-1, 1], drawn from a seed (D. S. Parker, Monte Carlo Arithmetic, UCLA CSD-970002,
1997). What the disturbance does to each stage is what rounding costs there.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

WEIGHTS, OUTPUTS = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What a model is disturbed by.

    Attributes:
        dtype: the dtype whose rounding is imitated, by torch's name.
        seed: of the disturbance; the same seed gives the same run.
    """

    dtype: str
    seed: int = 0

    def disturb_weights(self, model: torch.nn.Module) -> None:
        """Disturb every floating-point parameter, once and in place."""
        import torch

        generator = self._generator(model, WEIGHTS)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.mul_(self._factor(parameter, generator))

    @contextmanager
    def disturbing(self, model: torch.nn.Module) -> Iterator[None]:
        """Disturb the output of every module that computes, as long as the model runs."""
        generator = self._generator(model, OUTPUTS)

        def hook(_module: Any, _arguments: Any, output: Any) -> Any:
            is_float = hasattr(output, "is_floating_point") and output.is_floating_point()
            return output * self._factor(output, generator) if is_float else None

        with ExitStack() as stack:
            for module in model.modules():
                if not list(module.children()):
                    stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _generator(self, model: torch.nn.Module, purpose: int) -> torch.Generator:
        import torch

        device = next(model.parameters()).device
        return torch.Generator(device=device).manual_seed(2 * self.seed + purpose)

    def _factor(self, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        import torch

        unit = torch.finfo(getattr(torch, self.dtype)).eps / 2
        drawn = torch.rand(
            tensor.shape, dtype=tensor.dtype, device=tensor.device, generator=generator
        )
        return 1 + unit * (2 * drawn - 1)
