"""How far a bundle is trusted beyond its configuration."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a person has allowed when approving a bundle; by default, nothing besides."""

    unsafe_weights: bool = False
    """Whether weights may be loaded that can hold code."""
    torchscript: bool = False
    """Whether compiled networks may be run."""


NO_TRUST = Trust()
