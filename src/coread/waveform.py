"""A recording of several leads, sampled together."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

LARGEST_DENOMINATOR = 10_000
"""Of the ratio of two rates: what is off by rounding moves the end of 10 s by less than a millisecond."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Waveform:
    """``samples`` is (lead, sample), float32, mV; ``leads``: the name of each, in order."""

    samples: NDArray[np.float32]
    leads: tuple[str, ...]
    sampling_rate_hz: float

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.shape[0] != len(self.leads) or self.samples.dtype != np.float32:
            raise ValueError(
                f"expected float32 samples of shape ({len(self.leads)}, …), found {self.samples.dtype} of "
                f"{self.samples.shape}"
            )
        if len(set(self.leads)) != len(self.leads) or not self.sampling_rate_hz > 0:
            raise ValueError(
                f"expected different leads and a rate above 0, found {self.leads} at {self.sampling_rate_hz} Hz"
            )

    @property
    def duration_s(self) -> float:
        """From the first sample to where the one after the last would be."""
        return float(self.samples.shape[1] / self.sampling_rate_hz)

    def lead(self, name: str) -> NDArray[np.float32]:
        """The samples of one lead, mV, shape (sample,). Raises ValueError if there is none of this name."""
        return np.asarray(self.samples[self.leads.index(name)], np.float32)

    def of(self, leads: Sequence[str]) -> "Waveform":
        """Only these leads, in this order. Raises ValueError if one is not there."""
        rows = [self.leads.index(name) for name in leads]
        return Waveform(
            samples=np.ascontiguousarray(self.samples[rows]),
            leads=tuple(leads),
            sampling_rate_hz=self.sampling_rate_hz,
        )

    def at(self, sampling_rate_hz: float) -> "Waveform":
        """At another rate, with a filter against aliases."""
        return Waveform(
            samples=resampled(self.samples, self.sampling_rate_hz, sampling_rate_hz).astype(np.float32),
            leads=self.leads,
            sampling_rate_hz=sampling_rate_hz,
        )


def resampled(samples: NDArray[np.floating], from_hz: float, to_hz: float) -> NDArray[np.float64]:
    """Samples (lead, sample) at another rate, with a filter against aliases."""
    ratio = Fraction(to_hz / from_hz).limit_denominator(LARGEST_DENOMINATOR)
    if ratio == 1:
        return np.asarray(samples, np.float64)
    # By a line between its ends a lead is continued beyond them: with zeros, its offset would be a step there.
    exact = np.asarray(samples, np.float64)
    return np.asarray(resample_poly(exact, ratio.numerator, ratio.denominator, axis=1, padtype="line"), np.float64)
