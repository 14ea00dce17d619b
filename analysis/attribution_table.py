"""What attribution maps are worth, as a table: whether they add up, how even they are, and what checks said of them."""

from collections.abc import Mapping

from analysis.attribution import Attribution
from analysis.attribution_figure import NAMES, percent
from analysis.map_verdict import MapVerdict
from analysis.order_check import Faithfulness
from analysis.randomisation import Randomisation


def attribution_table(found: Mapping[str, Attribution], verdicts: Mapping[str, MapVerdict]) -> str:
    """Markdown: a row per map with its completeness gap and diffusion index, what its order gains over the two orders
    that know no map, and both verdicts in words; "not judged" where a check could not be made."""
    head = ["method", "completeness gap", "diffusion index", "gain over nearest first", "over random"]
    head += ["its order of importance", "its weights"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, one in found.items():
        order, weights = verdicts[name].order, verdicts[name].weights
        cells = [NAMES[one.method], percent(one.completeness_gap), f"{one.diffusion_index:.3g}"]
        if isinstance(order, Faithfulness):
            cells += [f"{order.gain('nearest'):+.3f}", f"{order.gain('random'):+.3f}", order.word]
        else:
            cells += ["-", "-", "not judged"]
        cells += [weights.word if isinstance(weights, Randomisation) else "not judged"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
