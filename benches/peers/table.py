"""The table: medians over the rounds, their spread, and what Rewarden's figure is divided by each peer's."""
import statistics
from dataclasses import dataclass, field


@dataclass
class Measured:
    """What the rounds of one program gave."""

    name: str
    rounds: list = field(default_factory=list)
    unavailable: str = ""
    # Field -> largest difference from Rewarden's, relative to max(1, |value|) for means and to the value otherwise.
    errors: dict = field(default_factory=dict)
    differs: str = ""

    def speeds(self):
        return sorted(one["tokens"] / one["seconds"] for one in self.rounds)

    def speed(self):
        return statistics.median(self.speeds())

    def json(self):
        return {"name": self.name, "rounds": self.rounds, "unavailable": self.unavailable, "errors": self.errors,
                "differs": self.differs}


TOLERANCE = 1e-3
HEAD = ("| | program | tokens/s | min–max | Rewarden's / this | agrees |", "|---|---|---|---|---|---|")


def error(name, got, want):
    """The largest difference of one field over the lines that both have."""
    scale = (lambda value: max(1, abs(value))) if name == "mean" else abs
    return max(abs(got[key][name] - line[name]) / scale(line[name]) for key, line in want.items())


def agreement(measured):
    """What the last column says of a peer."""
    if not measured.errors:
        return measured.differs or "–"
    text = ", ".join(f"{name} {value:.0e}" for name, value in measured.errors.items())
    if max(measured.errors.values()) > TOLERANCE:
        return f"**no**: {text}" + (f" ({measured.differs})" if measured.differs else "")
    return text


def line(title, measured, ours):
    if measured.unavailable:
        return f"| {title} | {measured.name} | – | – | – | does not run: {measured.unavailable} |"
    speeds = measured.speeds()
    ratio = "1" if measured is ours else "–"
    if measured is not ours and ours.rounds:
        ratio = f"**{ours.speed() / measured.speed():.2f}**"
    setting = measured.rounds[0].get("setting")
    name = measured.name + (f" (batch {', '.join(map(str, setting[1::2]))})" if setting else "")
    agrees = "" if measured is ours else agreement(measured)
    return f"| {title} | {name} | {measured.speed():.0f} | {speeds[0]:.0f}–{speeds[-1]:.0f} | {ratio} | {agrees} |"


def lines(title, programs):
    """Rows of one group, beside the first of Rewarden's programs that ran."""
    ours = next((one for one in programs if one.rounds and one.name.startswith("rewarden")), programs[0])
    return [line(title, measured, ours) for measured in programs]
