"""The estimators of Mendelian randomization by name, and what a reader has to know of each."""

import inspect
import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from .._checks import as_list, check_choice
from .linear import Fit, egger, ivw
from .median_mode import conmix, median, mode
from .presso import hetpen, presso
from .raps import divw, raps


class Method(NamedTuple):
    """An estimator.

    Attributes
    ----------
    fit : functools.partial
        Fits a block of sequences; the keyword arguments left unbound are the options.
    minimum, maximum : int
        Instruments that it needs, and that it can take.
    assumption, citation : str
        What it assumes, and where it was published.
    extras : tuple of str
        Columns that it has beyond those of every method.
    """

    fit: partial[Fit]
    minimum: int
    assumption: str
    citation: str
    extras: tuple[str, ...] = ()
    maximum: int | None = None

    @property
    def ratios(self) -> bool:
        """Whether it works on ratios, of which an instrument without exposure effect has none."""
        return self.fit.func in (median, mode, conmix, hetpen)

    @property
    def has_se(self) -> bool:
        """Whether it has a standard error; the others have intervals alone, and know of units."""
        return self.fit.func not in (conmix, hetpen)

    def overlap(self, **options: object) -> bool:
        """Whether it allows for the covariance of errors; no robust or penalized line does."""
        asked = self.fit.keywords | options
        resistant = asked.get("robust") or asked.get("penalized")
        return self.fit.func in (ivw, egger, divw, raps) and not resistant

    @property
    def options(self) -> list[str]:
        """Names of the keyword arguments that it leaves to the user."""
        bound = ("data", "unit_exponent", *self.fit.keywords)
        return [name for name in inspect.signature(self.fit.func).parameters if name not in bound]


BURGESS_2013 = "Burgess, Butterworth and Thompson 2013, Genet Epidemiol 37:658"
BOWDEN_2016 = "Bowden, Davey Smith, Haycock and Burgess 2016, Genet Epidemiol 40:304"
HARTWIG_2017 = "Hartwig, Davey Smith and Bowden 2017, Int J Epidemiol 46:1985"
BURGESS_2018 = "Burgess, Zuber, Gkatzionis and Foley 2018, Int J Epidemiol 47:1242"
VERBANCK_2018 = "Verbanck, Chen, Neale and Do 2018, Nat Genet 50:693"
REES_2019 = "Rees, Wood, Dudbridge and Burgess 2019, PLOS ONE 14:e0222362"
BURGESS_2020 = "Burgess, Foley, Allara, Staley and Howson 2020, Nat Commun 11:376"
ZHAO_2020 = "Zhao, Wang, Hemani, Bowden and Small 2020, Ann Stat 48:1742"
MALINA_2022 = "Malina, Cizin and Knowles 2022, PLOS Comput Biol 18:e1009880"

ALL_VALID = "all instruments valid"
BALANCED = "all instruments valid, or pleiotropy balanced and independent of strength (InSIDE)"
INSIDE = "pleiotropy independent of instrument strength (InSIDE), its mean estimated"
OUTLIERS = "; a minority of outliers"
HALF = "instruments with half of the weight valid"
PLURALITY = "the largest group of instruments with one ratio is the valid one"
WEAK = "; weak instruments allowed"
# What these say does not hang on the estimate.
DIAGNOSTICS = ("f_stat", "bandwidth", "condition", "global_p", "n_outliers", "n_pruned")

# fmt: off
_TABLE = [  # name, fit, its bound options, minimum, assumption, citation, extra columns, maximum
    ("ivw", ivw, {}, 1, BALANCED, BURGESS_2013, ("f_stat",)),
    ("ivw_fixed", ivw, {"effects": "fixed"}, 1, ALL_VALID, BURGESS_2013, ("f_stat",)),
    ("ivw_random", ivw, {"effects": "random"}, 2, BALANCED, BURGESS_2013, ("f_stat",)),
    ("ivw_robust", ivw, {"robust": True}, 3, BALANCED + OUTLIERS, REES_2019, ("f_stat",)),
    ("ivw_penalized", ivw, {"penalized": True}, 2, ALL_VALID + OUTLIERS, REES_2019, ("f_stat",)),
    ("egger", egger, {}, 3, INSIDE, "Bowden, Davey Smith and Burgess 2015, Int J Epidemiol 44:512"),
    ("egger_robust", egger, {"robust": True}, 3, INSIDE + OUTLIERS, REES_2019),
    ("egger_penalized", egger, {"penalized": True}, 3, INSIDE + OUTLIERS, REES_2019),
    ("egger_robust_penalized", egger, {"robust": True, "penalized": True}, 3, INSIDE + OUTLIERS,
     REES_2019),
    ("egger_paper", egger, {"robust": 10}, 3, INSIDE + "; outliers only above 10 instruments",
     MALINA_2022),
    ("median_simple", median, {"weighting": "simple"}, 3, "half of the instruments valid",
     BOWDEN_2016),
    ("median_weighted", median, {"weighting": "weighted"}, 3, HALF, BOWDEN_2016),
    ("median_penalized", median, {"weighting": "penalized"}, 3, HALF, BOWDEN_2016),
    ("mode_simple", mode, {"weighting": "simple"}, 3, PLURALITY, HARTWIG_2017, ("bandwidth",)),
    ("mode_weighted", mode, {"weighting": "weighted"}, 3, PLURALITY, HARTWIG_2017, ("bandwidth",)),
    ("conmix", conmix, {}, 3, PLURALITY, BURGESS_2020,
     ("psi", "overdispersion", "n_valid", "n_intervals")),
    ("hetpen", hetpen, {}, 2, PLURALITY, BURGESS_2018, ("n_intervals",), 15),
    ("presso", presso, {}, 4, "half of the instruments valid, the others independent of strength",
     VERBANCK_2018, ("global_p", "n_outliers", "distortion", "distortion_p")),
    ("divw", divw, {}, 1, BALANCED + WEAK, "Ye, Shao and Kang 2021, Ann Stat 49:2079",
     ("tau2", "condition")),
    *((f"raps_{kind}{suffix}", raps, {"loss": loss, "overdispersion": minimum == 3}, minimum,
       assumption + WEAK + more, ZHAO_2020, ("tau2", "tau2_se", "n_pruned"))
      for kind, minimum, assumption in (("simple", 2, ALL_VALID), ("overdispersed", 3, BALANCED))
      for loss, suffix, more in (("l2", "", ""), ("huber", "_huber", OUTLIERS),
                                 ("tukey", "_tukey", OUTLIERS))),
]
# fmt: on

REGISTRY = {name: Method(partial(fit, **bound), *facts) for name, fit, bound, *facts in _TABLE}

# What the numbers among options may be: lowest, highest, and whether these two are allowed. Choices
# are those of the annotations of the fits. The bootstrap needs the spread of two draws.
RANGES = dict.fromkeys(("phi", "psi"), (0, math.inf, False))
RANGES |= dict.fromkeys(("significance", "prior"), (0, 1, False))
RANGES |= {"draws": (2, math.inf, True), "seed": (0, math.inf, True)}


def check_methods(methods: str | Sequence[str]) -> list[str]:
    """Names of methods, each once, or a ValueError where one is unknown or there is none."""
    found = list(dict.fromkeys(method_name(name) for name in as_list(methods)))
    if not found:
        raise ValueError(f"method must name one at least; got none: choose among {list(REGISTRY)}")
    return found


def method_name(name: str) -> str:
    """Today's name of one method, or a ValueError where it is unknown."""
    new = str(name).replace("mbe_", "mode_")
    if new != name and new in REGISTRY:
        warnings.warn(f"method {name!r} is called {new!r} now", FutureWarning, stacklevel=3)
        return new
    return check_choice("method", name, tuple(REGISTRY))
