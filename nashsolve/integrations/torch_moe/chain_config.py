"""Settings of the base-expert chain: the bargain of each layer, momentum, propagation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .strict import Strict

Scale = Literal["exact", "frobenius", "sum_to_one", "unit_norm", "match_mean"]
Policy = Literal["hold", "face", "uniform", "min_norm"]


class BargainConfig(Strict):
    r"""How the experts bargain over the next base expert.

    Attributes
    ----------
    solver : name from the catalog of solvers
    products : "float32" or "float64": in which precision the Gram's products are formed before float64 sums
    iterations : budget; None lets the solver converge. CCP takes 1 to 60, as in the published ablation
    disagreement : "zero", or "mean": what each expert gets from the mean step, :math:`d_i=\tau_i^\top\bar\tau`
    radius : of the ball, for "mean": absolute, above the length of the mean step
    radius_factor : the same as a multiple (> 1) of the length of the mean step
    scale : of the coefficients of the step: "exact" :math:`c=\alpha` (step of length :math:`\sqrt N`), "frobenius"
        :math:`\alpha\sqrt{\|K\|_F}` (what the published Nash-MTL code returns), "sum_to_one", "unit_norm" (step of
        length one), "match_mean" (as long as the mean step)
    ridge : rho >= 0, adds :math:`\rho\,\mathrm{tr}(K)/N` to the diagonal of the Gram before solving
    cap : largest coefficient; a longer vector is shortened as a whole
    on_no_agreement : "hold" the base expert, "face" (partial agreement), "uniform" mean step, or "min_norm" weights
    warm_start : start the solver from the last step's alpha (kept in the state_dict)
    """

    solver: str = "newton"
    products: Literal["float32", "float64"] = "float32"
    iterations: int | None = Field(default=None, ge=1)
    disagreement: Literal["zero", "mean"] = "zero"
    radius: float | None = Field(default=None, gt=0)
    radius_factor: float | None = Field(default=None, gt=1)
    scale: Scale = "sum_to_one"
    ridge: float = Field(default=0.0, ge=0)
    cap: float | None = Field(default=None, gt=0)
    on_no_agreement: Policy = "hold"
    warm_start: bool = False

    @model_validator(mode="after")
    def _fits(self) -> BargainConfig:
        if self.solver == "ccp" and self.iterations is not None and self.iterations > 60:
            raise ValueError(f"bargain.iterations is {self.iterations}; CCP takes 1 to 60")
        given = (self.radius is not None) + (self.radius_factor is not None)
        if self.disagreement == "mean" and given != 1:
            raise ValueError("disagreement 'mean' needs exactly one of radius and radius_factor")
        if self.disagreement == "zero" and given:
            raise ValueError("radius and radius_factor change nothing for disagreement 'zero'; use scale")
        if self.disagreement == "mean" and (self.warm_start or self.solver in ("ccp", "closed_form")):
            raise ValueError("disagreement 'mean' takes neither warm_start nor the solvers ccp and closed_form")
        return self


class MomentumConfig(Strict):
    r"""Momentum of the base expert over layers; buffers start at zero in every pass.

    Attributes
    ----------
    kind : "none", "real", "complex", "quaternion" or "heavy_ball" (the published appendix)
    beta : modulus for real and heavy_ball (negative allowed), complex
    phase : radians, for complex and heavy_ball
    quaternion : (a, b, c, d)
    """

    kind: Literal["none", "real", "complex", "quaternion", "heavy_ball"] = "none"
    beta: float = Field(default=0.0, gt=-1, lt=1)
    phase: float = 0.0
    quaternion: tuple[float, float, float, float] | None = Field(default=None, strict=False)

    @model_validator(mode="after")
    def _fits(self) -> MomentumConfig:
        if (self.kind == "quaternion") != (self.quaternion is not None):
            raise ValueError("momentum.quaternion=(a, b, c, d) belongs to kind 'quaternion', and is needed there")
        if self.kind in ("none", "quaternion") and (self.beta or self.phase):
            raise ValueError(f"momentum.beta and phase change nothing for kind {self.kind!r}")
        if self.kind == "real" and self.phase:
            raise ValueError("momentum.phase changes nothing for kind 'real'; use 'complex'")
        return self


class ChainConfig(Strict):
    r"""Propagation of the base expert from layer to layer, :math:`E_m^{l+1} = E_m^l + \gamma\sum_i c_i\tau_i^l`.

    Attributes
    ----------
    bargain : how the coefficients are found; "uniform" is EP-CAMEx, :math:`c_i = 1/N`
    gamma : step size, > 0
    interval : re-solve every this many layers; "once" solves at the first layer only
    granularity : "expert": one bargain over whole experts; "linear": one for each linear layer
    biases : "bargain": they are part of the domain vectors; "follow": weights bargain alone, and biases (tensors with
        one axis) take the same step
    momentum : over layers
    detach_alpha : True treats the coefficients as constants, as the published code does; False differentiates them
        through the bargaining solution
    detach_chain : True lets no gradient pass along the chain
    """

    bargain: BargainConfig | Literal["uniform"] = BargainConfig()
    gamma: float = Field(default=1.0, gt=0)
    interval: int | Literal["once"] = 1
    granularity: Literal["expert", "linear"] = "expert"
    biases: Literal["bargain", "follow"] = "bargain"
    momentum: MomentumConfig = MomentumConfig()
    detach_alpha: bool = True
    detach_chain: bool = False

    @model_validator(mode="after")
    def _fits(self) -> ChainConfig:
        if self.interval != "once" and self.interval < 1:
            raise ValueError(f"chain.interval is {self.interval}; a whole number >= 1 or 'once' is needed")
        if self.bargain == "uniform":
            if self.interval != 1 or not self.detach_alpha or self.biases != "bargain":
                raise ValueError("uniform coefficients are constants: interval, biases and detach_alpha change nothing")
        elif not self.detach_alpha and self.bargain.iterations is not None:
            raise ValueError("detach_alpha=False needs a converged solver: iterations=None")
        if self.detach_chain and not self.detach_alpha:
            raise ValueError("detach_chain=True already detaches alpha")
        return self
