"""Networks of a population: every parameter has the agent axis first, one batched product serves all.

Shapes: A agents, B batch entries. Nothing of one agent reaches another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from furl_lightning.agents.categorical import Bins

NARROW = 8
"""Columns up to which an output layer's products are made transposed, on the CPU."""
MIN_STD = 1e-3
"""Added to the softplus of the actor's pre-std (the published code's value)."""


class PopulationLinear(nn.Module):
    """A linear layer for each member: input [M, B, in] -> output [M, B, out], M the number of all members.

    ``weight`` is [*members, in, out], ``bias`` [*members, 1, out]. A layer whose ``output`` losses are made of
    is computed in float32 also under autocast: bfloat16 would round a Q value of 100 to whole numbers.
    """

    def __init__(self, members: Sequence[int], in_features: int, out_features: int, output: bool = False) -> None:
        super().__init__()
        self.output = output
        self.weight = nn.Parameter(torch.zeros(*members, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(*members, 1, out_features))

    def forward(self, x: Tensor, agents: Tensor | None = None) -> Tensor:
        """Apply every member's layer, or, with ``agents`` (int64 [K]), those agents' only."""
        if self.output and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self(x.float(), agents)
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if agents is not None:
            weight, bias = weight.index_select(0, agents), bias.index_select(0, agents)
        narrow = self.output and x.device.type == "cpu" and weight.shape[-1] <= NARROW
        product: Callable[[Tensor, Tensor, Tensor], Tensor] = _NarrowProduct.apply if narrow else torch.baddbmm
        return product(bias.flatten(0, -3), x, weight.flatten(0, -3))

    @torch.no_grad()
    def reset_parameters(self, generators: Sequence[torch.Generator]) -> None:
        """LeCun-normal weights (truncated at two deviations), zero biases; one generator an agent."""
        self.bias.zero_()
        _draw_lecun_normal(self.weight, self.weight.shape[-2], generators)


class _NarrowProduct(torch.autograd.Function):
    """``torch.baddbmm(bias, x, weight)`` of few columns, transposed: processors make few rows 4 to 10 times as fast."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.mT, weight.mT, x.mT).mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        of_bias, of_x, of_weight = ctx.needs_input_grad
        product = torch.mul if weight.shape[-1] == 1 else torch.bmm
        return (
            grad.sum(1, keepdim=True) if of_bias else None,
            product(grad, weight.mT) if of_x else None,
            torch.bmm(grad.mT, x).mT.contiguous() if of_weight else None,
        )


class PopulationConv2d(nn.Module):
    """A convolution for each agent, as one grouped convolution: [B, A * in, H, W] -> [B, A * out, H', W'].

    ``weight`` is [A, out, in, kernel, kernel], ``bias`` [A, out]. Group i of the channels is agent i's.
    """

    def __init__(self, num_agents: int, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.zeros(num_agents, out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(num_agents, out_channels))

    def forward(self, x: Tensor, agents: Tensor | None = None) -> Tensor:
        """Apply every agent's convolution, or, with ``agents`` (int64 [K]), those agents' only."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if agents is not None:
            weight, bias = weight.index_select(0, agents), bias.index_select(0, agents)
        return F.conv2d(x, weight.flatten(0, 1), bias.flatten(), self.stride, groups=len(weight))

    @torch.no_grad()
    def reset_parameters(self, generators: Sequence[torch.Generator]) -> None:
        """LeCun-normal weights (truncated at two deviations), zero biases; one generator an agent."""
        self.bias.zero_()
        _draw_lecun_normal(self.weight, self.weight[0, 0].numel(), generators)


def _draw_lecun_normal(weight: Tensor, fan_in: int, generators: Sequence[torch.Generator]) -> None:
    # 0.8796 is the deviation of a unit normal truncated at +-2, which the truncation takes away.
    std = math.sqrt(1.0 / fan_in) / 0.87962566103423978
    for member, generator in zip(weight, generators, strict=True):
        draw = torch.empty(member.shape)
        nn.init.trunc_normal_(draw, 0.0, std, -2 * std, 2 * std, generator=generator)
        member.copy_(draw)


class PopulationLayerNorm(nn.Module):
    """Layer normalisation over the last axis with each member's own gain and bias: [M, B, features]."""

    def __init__(self, members: Sequence[int], features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*members, 1, features))
        self.bias = nn.Parameter(torch.zeros(*members, 1, features))

    def forward(self, x: Tensor, agents: Tensor | None = None) -> Tensor:
        """Normalise, for all agents or the given ones (int64 [K])."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if agents is not None:
            weight, bias = weight.index_select(0, agents), bias.index_select(0, agents)
        return torch.addcmul(bias.flatten(0, -3), F.layer_norm(x, x.shape[-1:]), weight.flatten(0, -3))


class PopulationMLP(nn.Module):
    """Linear layers with ReLU between: [*members, B, sizes[0]] -> [*members, B, sizes[-1]].

    With ``layer_norm`` every hidden layer is normalised before its ReLU.
    """

    def __init__(
        self, members: Sequence[int], sizes: Sequence[int], final_relu: bool = False, layer_norm: bool = False
    ) -> None:
        super().__init__()
        last = None if final_relu else len(sizes) - 2
        self.layers = nn.ModuleList(
            PopulationLinear(members, i, o, output=depth == last)
            for depth, (i, o) in enumerate(itertools.pairwise(sizes))
        )
        self.norms = nn.ModuleList(PopulationLayerNorm(members, size) for size in sizes[1:-1] if layer_norm)
        self.final_relu = final_relu

    def forward(self, x: Tensor, agents: Tensor | None = None) -> Tensor:
        """Apply the layers, for all agents or the given ones (int64 [K])."""
        members = x.shape[:-2]
        x = x.flatten(0, -3)  # once: a ReLU in place on a view would cost copies on the way back
        for depth, layer in enumerate(self.layers, start=1):
            x = layer(x, agents)
            if depth <= len(self.norms):
                x = self.norms[depth - 1](x, agents)
            if depth < len(self.layers) or self.final_relu:
                x = F.relu_(x)
        return x.unflatten(0, members)


class PopulationResidual(nn.Module):
    """Layer-normalised residual networks: [*members, B, in] -> [*members, B, out].

    Linear, norm and ReLU; then blocks x + norm(linear(ReLU(norm(linear(x))))); then a linear layer: the critic of BRO
    (Nauman et al. 2024, arXiv 2405.16158, section 3) and BRC (arXiv 2505.23150).
    """

    def __init__(self, members: Sequence[int], in_features: int, width: int, blocks: int, out_features: int) -> None:
        super().__init__()
        sizes = [in_features, *[width] * (1 + 2 * blocks)]
        self.layers = nn.ModuleList(PopulationLinear(members, i, o) for i, o in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(PopulationLayerNorm(members, size) for size in sizes[1:])
        self.output = PopulationLinear(members, width, out_features, output=True)

    def forward(self, x: Tensor, agents: Tensor | None = None) -> Tensor:
        """Apply the layers, for all agents or the given ones (int64 [K])."""
        members, layers = x.shape[:-2], list(zip(self.layers, self.norms, strict=True))
        layer, norm = layers[0]
        x = F.relu_(norm(layer(x.flatten(0, -3), agents), agents))
        for (layer, norm), (second, its_norm) in zip(layers[1::2], layers[2::2], strict=True):
            inner = F.relu_(norm(layer(x, agents), agents))
            x = x + its_norm(second(inner, agents), agents)
        out: Tensor = self.output(x, agents)
        return out.unflatten(0, members)


class Actor(nn.Module):
    """Tanh-Gaussian policies: mean and std from obs-H-...-H ReLU features by one linear layer each.

    std is softplus(pre-std) + ``min_std``.
    """

    def __init__(
        self, num_agents: int, obs_dim: int, action_dim: int, hidden: Sequence[int], min_std: float = MIN_STD
    ) -> None:
        super().__init__()
        self.min_std = min_std
        self.net = PopulationMLP([num_agents], [obs_dim, *hidden], final_relu=True)
        self.mean = PopulationLinear([num_agents], hidden[-1], action_dim, output=True)
        self.std = PopulationLinear([num_agents], hidden[-1], action_dim, output=True)

    def forward(
        self, observation: Float[Tensor, "K B obs"], agents: Tensor | None = None
    ) -> tuple[Float[Tensor, "K B action"], Float[Tensor, "K B action"]]:
        """Mean and std before the tanh, each [A, B, action], for observations [A, B, obs]."""
        features = self.net(observation, agents)
        return self.mean(features, agents), F.softplus(self.std(features, agents)) + self.min_std

    def sample(
        self, observation: Float[Tensor, "K B obs"], noise: Float[Tensor, "K B action"], agents: Tensor | None = None
    ) -> tuple[Float[Tensor, "K B action"], Float[Tensor, "K B"]]:
        """Action tanh(mean + std * noise) [A, B, action] and its log-probability [A, B].

        The tanh correction log(1 - tanh(u)^2) is computed as 2 (log 2 - u - softplus(-2u)), which
        does not lose digits for large |u| (Haarnoja et al. 2018, appendix C, rearranged).
        """
        mean, std = self(observation, agents)
        u = mean + std * noise
        log_normal = -0.5 * noise.square() - std.log() - 0.5 * math.log(2 * math.pi)
        log_det = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
        return torch.tanh(u), (log_normal - log_det).sum(-1)

    def deterministic(self, observation: Tensor) -> Tensor:
        """The mode's action tanh(mean), [A, B, action]."""
        return torch.tanh(self(observation)[0])


class TwinCritic(nn.Module):
    """Two independent Q functions an agent: MLP (obs, action)-H-...-H-1.

    Args:
        num_agents: A.
        obs_dim, action_dim: sizes of observations and actions.
        hidden: H.
        layer_norm: normalise the hidden layers.
        blocks: 0, or the number of a residual network's in place of the MLP, whose width is the only H.
        bins: of a categorical critic, whose output is a logit for each in place of the value.
    """

    def __init__(
        self,
        num_agents: int,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        layer_norm: bool = False,
        blocks: int = 0,
        bins: Bins | None = None,
    ) -> None:
        super().__init__()
        members, size, outputs = [num_agents, 2], obs_dim + action_dim, bins.count if bins is not None else 1
        self.bins = bins
        self.net: PopulationMLP | PopulationResidual
        if blocks:
            (width,) = hidden
            self.net = PopulationResidual(members, size, width, blocks, outputs)
        else:
            self.net = PopulationMLP(members, [size, *hidden, outputs], layer_norm=layer_norm)

    def forward(
        self, observation: Float[Tensor, "K B obs"], action: Float[Tensor, "K B action"], agents: Tensor | None = None
    ) -> Float[Tensor, "K 2 B"]:
        """Both values [A, 2, B] of observations [A, B, obs] and actions [A, B, action]."""
        return self.value(self.outputs(observation, action, agents))

    def outputs(
        self, observation: Float[Tensor, "K B obs"], action: Float[Tensor, "K B action"], agents: Tensor | None = None
    ) -> Float[Tensor, "K 2 B M"]:
        """What both networks say, [A, 2, B, 1 or bins]."""
        x = torch.cat([observation, action], -1)
        both: Tensor = self.net(x.unsqueeze(1).expand(-1, 2, -1, -1), agents)
        return both

    def value(self, outputs: Float[Tensor, "K 2 B M"]) -> Float[Tensor, "K 2 B"]:
        """The values [A, 2, B] that they mean."""
        return outputs.squeeze(-1) if self.bins is None else self.bins.value(outputs)


def reset_parameters(network: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Initialise all layers of a network, each agent from its own generator."""
    for module in network.modules():
        if isinstance(module, PopulationLinear | PopulationConv2d):
            module.reset_parameters(generators)
