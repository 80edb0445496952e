"""What a request cost: counted by the kernels, never estimated. No torch here, so every layer above can import it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Compute of one gated layer for one request.

    units_active / units_total count gated units; for a layer with one mask per token both are summed over tokens.
    macs_active excludes the gate; macs_dense is the same layer without gates.
    """

    name: str
    units_active: int
    units_total: int
    macs_active: int
    macs_gate: int
    macs_dense: int
    kernel: str
    cap_hits: int = 0

    @property
    def activity(self) -> float:
        return self.units_active / self.units_total if self.units_total else 1.0


@dataclass(frozen=True, slots=True)
class ComputeReport:
    """Compute of one request: gated layers one by one, plus `macs_fixed`, what no gate governs."""

    budget: float
    layers: tuple[LayerReport, ...]
    macs_fixed: int = 0

    @property
    def macs_active(self) -> int:
        """MACs executed by units and ungated parts, without the gates' own."""
        return self.macs_fixed + sum(layer.macs_active for layer in self.layers)

    @property
    def macs_gate(self) -> int:
        return sum(layer.macs_gate for layer in self.layers)

    @property
    def macs(self) -> int:
        """All MACs executed for the request: units, ungated parts and gates."""
        return self.macs_active + self.macs_gate

    @property
    def macs_dense(self) -> int:
        """MACs that the same model without gates would have executed."""
        return self.macs_fixed + sum(layer.macs_dense for layer in self.layers)

    @property
    def activity(self) -> float:
        """Measured share of gated units that ran, MAC-weighted over layers; 1.0 for an ungated model."""
        dense = sum(layer.macs_dense for layer in self.layers)
        return sum(layer.activity * layer.macs_dense for layer in self.layers) / dense if dense else 1.0

    @property
    def cap_hits(self) -> int:
        return sum(layer.cap_hits for layer in self.layers)
