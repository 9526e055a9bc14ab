"""Balance: losses, the loss-free bias, capacity, and how uneven a load is."""

from .capacity import expert_capacity, keep_within_capacity
from .loss_free import bias_update, max_vio
from .losses import (
    cv_squared,
    expert_counts,
    fastmoe_loss,
    importance_loss,
    load_importance_loss,
    load_loss,
    sequence_loss,
    switch_loss,
    z_loss,
)
from .named import BALANCE_LOSSES, balance_losses

__all__ = [
    "BALANCE_LOSSES",
    "balance_losses",
    "bias_update",
    "cv_squared",
    "expert_capacity",
    "expert_counts",
    "fastmoe_loss",
    "importance_loss",
    "keep_within_capacity",
    "load_importance_loss",
    "load_loss",
    "max_vio",
    "sequence_loss",
    "switch_loss",
    "z_loss",
]
