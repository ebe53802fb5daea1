"""Draw every schematic of the book: ``python book/figures/draw.py`` writes the SVG files here.

The pictures explain; none of them shows a result. The few numbers in them are made up below
with a fixed seed, so that the same script always writes the same files.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon

HERE = Path(__file__).parent

# Okabe and Ito's colours, told apart by readers with any of the common colour-vision types.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
INK, GREY, PALE = "#22303C", "#8A949E", "#E9EDF1"
BASES = {"A": "#009E73", "C": "#0072B2", "G": "#C98B00", "T": "#D55E00"}

mpl.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "mathtext.fontset": "dejavusans",
        "svg.fonttype": "path",
        "svg.hashsalt": "deepmr",
        "savefig.facecolor": "white",
    }
)


# ---------------------------------------------------------------- pieces


def canvas(width, height):
    """Figure and one axes in inches, without frame, for free drawing."""
    fig = plt.figure(figsize=(width, height))
    ax = fig.add_axes([0, 0, 1, 1])
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def inset(fig, x, y, width, height):
    """Plot axes whose lower left corner and size are given in inches."""
    total_width, total_height = fig.get_size_inches()
    ax = fig.add_axes(
        [x / total_width, y / total_height, width / total_width, height / total_height]
    )
    ax.set(xticks=[], yticks=[])
    ax.patch.set_alpha(0)
    return ax


def save(fig, name):
    """Write ``name`` as SVG without a date, so that a redraw changes nothing."""
    fig.savefig(HERE / name, metadata={"Date": None, "Creator": "book/figures/draw.py"})
    plt.close(fig)


def letters(ax, x, y, sequence, *, step=0.155, size=10, changed=None):
    """DNA letters in a row; ``changed`` is the index of a substituted base."""
    for i, base in enumerate(sequence):
        if i == changed:
            ax.add_patch(
                FancyBboxPatch(
                    (x + i * step - 0.075, y - 0.095),
                    0.15,
                    0.19,
                    boxstyle="round,pad=0.015",
                    facecolor="#FFF2B3",
                    edgecolor=INK,
                    linewidth=0.8,
                )
            )
        ax.text(
            x + i * step,
            y,
            base,
            color=BASES.get(base, INK),
            ha="center",
            va="center",
            fontsize=size,
            family="DejaVu Sans Mono",
            weight="bold",
        )


def arrow(ax, start, end, *, color=INK, width=1.6, style="-", curve=0.0, head=9, shrink=0):
    """Arrow from ``start`` to ``end``."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=f"-|>,head_length={head / 18:.2f},head_width={head / 32:.2f}",
            mutation_scale=12,
            color=color,
            linewidth=width,
            linestyle=style,
            connectionstyle=f"arc3,rad={curve}",
            shrinkA=shrink,
            shrinkB=shrink,
            joinstyle="miter",
        )
    )


def banner(ax, x, y, width, title, steps):
    """Section heading of the method figure."""
    ax.add_patch(
        FancyBboxPatch(
            (x, y - 0.15), width, 0.30, boxstyle="round,pad=0.02", facecolor=PALE, edgecolor="none"
        )
    )
    ax.text(x + 0.10, y, title, va="center", ha="left", fontsize=12, weight="bold")
    ax.text(x + width - 0.10, y, steps, va="center", ha="right", fontsize=10.5)


# ---------------------------------------------------------------- Figure 1


def instruments(rng, n=16, slope=1.7):
    """Made-up effects of kept substitutions on exposure and outcome, with standard errors."""
    beta_x = -np.sort(rng.uniform(0.5, 3.0, n))
    beta_y = slope * beta_x + 0.1 + rng.normal(0, 0.42, n)
    return beta_x, beta_y, rng.uniform(0.08, 0.2, n), rng.uniform(0.2, 0.45, n)


def draw_predict(fig, ax, rng):
    """Steps 1 to 4: reference and mutants through the members, then differences."""
    reference = "CAGATAAGG"
    rows = [
        (8.02, reference, None),
        (7.62, "TAGATAAGG", 0),
        (7.22, "CACATAAGG", 2),
        (6.50, "CAGATAAGT", 8),
    ]
    ax.text(0.15, 8.36, "1  Sample reference", fontsize=9.5, weight="bold")
    ax.text(2.58, 8.36, "3  Predict", fontsize=9.5, weight="bold", ha="center")
    for y, sequence, changed in rows:
        letters(ax, 0.25, y, sequence, changed=changed)
    for y in (6.82, 6.88, 6.94):
        ax.add_patch(Circle((0.87, y), 0.012, color=INK))
    ax.text(0.15, 6.13, "2  Mutate: all $3L$", fontsize=9.5, weight="bold")
    arrow(ax, (1.68, 7.25), (1.98, 7.25))
    for i, label in enumerate(["member $M$", "", "", "member 1"]):
        x, y = 2.26 - 0.07 * i, 6.72 + 0.10 * i - 0.02
        ax.add_patch(
            FancyBboxPatch(
                (x, y),
                0.86,
                0.92,
                boxstyle="round,pad=0.03",
                facecolor="white" if i < 3 else "#F4F7FA",
                edgecolor=INK,
                linewidth=1,
            )
        )
        if label == "member 1":
            ax.text(
                x + 0.43, y + 0.63, "model", ha="center", va="center", fontsize=10.5, weight="bold"
            )
            ax.text(x + 0.43, y + 0.38, "member", ha="center", va="center", fontsize=9.5)
            ax.text(x + 0.43, y + 0.18, "$1 \\ldots M$", ha="center", va="center", fontsize=9.5)
    ax.text(2.52, 6.40, "ensemble or", fontsize=9, ha="center")
    ax.text(2.52, 6.22, "dropout masks", fontsize=9, ha="center")
    arrow(ax, (3.22, 7.25), (3.50, 7.25))
    means = {BLUE: [2.3, 2.2, 1.0, 1.9], ORANGE: [2.0, 1.9, 0.5, 1.3]}
    for k, (color, title) in enumerate([(BLUE, "exposure"), (ORANGE, "outcome")]):
        left = 3.62 + 0.80 * k
        ax.text(left + 0.34, 8.36, title, color=color, ha="center", fontsize=9.5, weight="bold")
        ax.plot([left, left + 0.68], [6.33, 6.33], color=INK, lw=0.9)
        ax.plot(
            [left + 0.24 * means[color][0]] * 2, [6.36, 8.2], color=GREY, lw=0.8, ls=(0, (3, 2))
        )
        for (y, _, _), mean in zip(rows, means[color], strict=True):
            se = rng.uniform(0.05, 0.09)
            ax.errorbar(left + 0.24 * mean, y, xerr=se, fmt="o", ms=5, color=color, elinewidth=1.6)
    ax.text(4.36, 6.13, "mean and sd", fontsize=9, ha="center")
    ax.text(0.15, 5.80, "4  Difference", fontsize=9.5, weight="bold")
    ax.text(
        1.28,
        5.80,
        r"mutant $-$ reference in each member: $\hat\beta \pm$ standard error",
        fontsize=9.3,
    )


def draw_estimate(fig, ax, rng):
    """Steps 5 and 6: keep what moves the exposure, then one slope a sequence."""
    track = inset(fig, 0.42, 3.36, 1.88, 1.28)
    position = np.arange(44)
    z = rng.normal(0, 0.30, 44)
    z[15:26] = [-1.4, -2.9, -2.2, -3.1, -0.7, -2.5, -1.9, -2.7, -1.2, -1.6, 0.8]
    kept = np.abs(z) >= 1
    track.axhspan(-1, 1, color=PALE, lw=0)
    track.vlines(position, 0, z, color=np.where(kept, BLUE, GREY), lw=2)
    track.axhline(0, color=INK, lw=0.8)
    track.set(xlim=(-1, 44), ylim=(-3.5, 2.2))
    track.text(43.5, -1.35, "threshold $-t$", fontsize=8.5, ha="right", va="center")
    track.text(43.5, 1.33, "threshold $+t$", fontsize=8.5, ha="right", va="center")
    track.text(27.2, -2.75, "kept", color=BLUE, fontsize=9.5, weight="bold", va="center")
    track.set_xlabel("position", fontsize=9.5, labelpad=3)
    track.set_ylabel("effect on exposure, $z$", fontsize=9)
    ax.text(0.20, 4.86, "5  Select", fontsize=10.5, weight="bold")

    scatter = inset(fig, 3.06, 3.36, 1.98, 1.28)
    beta_x, beta_y, se_x, se_y = instruments(rng)
    scatter.axhline(0, color=GREY, lw=0.7)
    scatter.axvline(0, color=GREY, lw=0.7)
    scatter.errorbar(beta_x, beta_y, xerr=se_x, yerr=se_y, fmt="o", ms=4, color=INK, elinewidth=0.9)
    line = np.array([-3.3, 0.25])
    scatter.plot(line, 1.7 * line + 0.1, color=GREEN, lw=2.4, zorder=5)
    scatter.set(xlim=(-3.5, 0.4), ylim=(-6.3, 1.2))
    scatter.text(-1.45, -4.6, r"slope $\hat\theta_s$", color=GREEN, fontsize=12, weight="bold")
    scatter.set_xlabel(r"effect on exposure, $\hat\beta_X$", fontsize=9, labelpad=3)
    scatter.set_ylabel(r"on outcome, $\hat\beta_Y$", fontsize=9)
    ax.text(2.86, 4.86, "6  Estimate: one sequence", fontsize=10.5, weight="bold")
    arrow(ax, (2.36, 4.0), (2.68, 4.0))


def draw_aggregate(fig, ax, rng):
    """Step 7: random-effects meta-analysis over sequences."""
    ax.text(0.20, 2.34, "7  Meta-analysis", fontsize=10.5, weight="bold")
    forest = inset(fig, 1.42, 0.46, 2.62, 1.74)
    local = np.array([1.95, 1.30, 1.62, 2.35, 1.05])
    half = np.array([0.42, 0.55, 0.30, 0.60, 0.45])
    rows = [6, 5, 4, 3, 1.6]
    forest.axvspan(1.02, 2.18, color=GREEN, alpha=0.13, lw=0)
    forest.errorbar(local, rows, xerr=half, fmt="s", ms=5.5, color=INK, elinewidth=1.4)
    for y in (2.12, 2.30, 2.48):
        forest.plot(1.6, y, ".", ms=2.5, color=INK)
    forest.add_patch(Polygon([[1.38, 0.45], [1.6, 0.78], [1.82, 0.45], [1.6, 0.12]], color=GREEN))
    forest.axvline(0, color=GREY, lw=0.8)
    forest.set(xlim=(-0.25, 3.3), ylim=(-0.15, 6.6), xticks=[0])
    forest.tick_params(length=3, labelsize=9.5)
    forest.set_xlabel("causal effect of exposure on outcome", fontsize=9.5, labelpad=1)
    forest.spines["left"].set_visible(False)
    bottom, height = 0.46, 1.74
    for y, text in zip(
        [*rows, 0.45],
        ["sequence 1", "sequence 2", "sequence 3", "sequence 4", "sequence $S$", "global effect"],
        strict=True,
    ):
        color, weight = (GREEN, "bold") if text == "global effect" else (INK, "normal")
        ax.text(
            1.36,
            bottom + height * (y + 0.15) / 6.75,
            text,
            ha="right",
            va="center",
            fontsize=9.5,
            color=color,
            weight=weight,
        )
    ax.text(4.12, bottom + height * 0.66, r"local effects $\hat\theta_s$", fontsize=9.3, ha="left")
    for row, text in enumerate(["shaded: spread", "of the effects", r"themselves, $\pm\tau$"]):
        ax.text(
            4.12, bottom + height * (0.36 - 0.085 * row), text, fontsize=9, ha="left", color=GREEN
        )


def figure1():
    """The seven steps, top to bottom so that they stay legible on a phone."""
    rng = np.random.default_rng(7)
    fig, ax = canvas(5.2, 8.95)
    banner(ax, 0.12, 8.72, 4.96, "Predict", "steps 1 to 4")
    draw_predict(fig, ax, rng)
    banner(ax, 0.12, 5.32, 4.96, "Estimate", "steps 5 and 6")
    draw_estimate(fig, ax, rng)
    banner(ax, 0.12, 2.78, 4.96, "Aggregate", "step 7")
    draw_aggregate(fig, ax, rng)
    save(fig, "figure1_method.svg")


# ---------------------------------------------------------------- the idea, for the first page


def figure_idea():
    """One substitution is one small experiment; all of them give a slope."""
    rng = np.random.default_rng(3)
    fig, ax = canvas(5.2, 3.3)
    ax.text(0.15, 3.08, "One change, two answers", fontsize=10.5, weight="bold")
    letters(ax, 0.28, 2.70, "CAGATAAGGTCAGA", size=10)
    arrow(ax, (1.20, 2.56), (1.20, 2.32), head=7, width=1.2)
    letters(ax, 0.28, 2.17, "CAGATACGGTCAGA", size=10, changed=6)
    ax.add_patch(
        FancyBboxPatch(
            (0.45, 1.34),
            1.7,
            0.42,
            boxstyle="round,pad=0.03",
            facecolor="#F4F7FA",
            edgecolor=INK,
            linewidth=1,
        )
    )
    ax.text(1.30, 1.55, "trained model", ha="center", va="center", fontsize=10)
    arrow(ax, (1.30, 2.02), (1.30, 1.82), head=7, width=1.2)
    for x, color, title, text in [
        (0.68, BLUE, "exposure", r"$\hat\beta_X = -1.6$"),
        (1.92, ORANGE, "outcome", r"$\hat\beta_Y = -2.7$"),
    ]:
        arrow(ax, (1.30 + 0.45 * np.sign(x - 1.3), 1.30), (x, 0.92), head=7, width=1.2)
        ax.text(x, 0.74, title, ha="center", va="center", fontsize=10, color=color, weight="bold")
        ax.text(x, 0.48, text, ha="center", va="center", fontsize=10, color=color)
    ax.plot([2.66, 2.66], [0.3, 3.1], color=PALE, lw=2)

    ax.text(2.86, 3.08, "All of them, one slope", fontsize=10.5, weight="bold")
    scatter = inset(fig, 3.22, 0.58, 1.80, 2.32)
    beta_x, beta_y, se_x, se_y = instruments(rng, n=20)
    scatter.axhline(0, color=GREY, lw=0.7)
    scatter.axvline(0, color=GREY, lw=0.7)
    scatter.errorbar(beta_x, beta_y, xerr=se_x, yerr=se_y, fmt="o", ms=4, color=INK, elinewidth=0.9)
    scatter.plot(-1.6, -2.7, "o", ms=8, mfc="#FFF2B3", mec=INK, zorder=6)
    line = np.array([-3.3, 0.25])
    scatter.plot(line, 1.7 * line + 0.1, color=GREEN, lw=2.4, zorder=5)
    scatter.set(xlim=(-3.6, 0.45), ylim=(-6.4, 1.1))
    for row, text in enumerate(["slope =", "learned causal", "effect"]):
        scatter.text(
            0.38, -5.05 - 0.5 * row, text, color=GREEN, fontsize=9.5, weight="bold", ha="right"
        )
    scatter.set_xlabel("change of exposure", fontsize=10, color=BLUE, labelpad=4)
    scatter.set_ylabel("change of outcome", fontsize=10, color=ORANGE)
    save(fig, "idea.svg")


# ---------------------------------------------------------------- causal diagrams


def node(ax, xy, letter, color, caption=None, *, below=True, hidden=False, radius=0.24):
    """A variable; a hidden one has a dashed rim and no fill."""
    ax.add_patch(
        Circle(
            xy,
            radius,
            facecolor="white" if hidden else color,
            edgecolor=color,
            linewidth=1.8,
            linestyle=(0, (3, 2)) if hidden else "-",
            zorder=3,
        )
    )
    ax.text(
        *xy,
        letter,
        color=color if hidden else "white",
        ha="center",
        va="center",
        fontsize=13,
        style="italic",
        weight="bold",
        zorder=4,
    )
    if caption:
        ax.text(
            xy[0],
            xy[1] + (-0.40 if below else 0.40),
            caption,
            ha="center",
            va="center",
            fontsize=9.5,
            color=INK,
        )


def edge(ax, start, end, *, color=INK, width=1.8, style="-", curve=0.0, gap=0.28):
    """Arrow between two nodes, cut at their rims."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    unit = (end - start) / np.hypot(*(end - start))
    arrow(
        ax,
        start + gap * unit,
        end - gap * unit,
        color=color,
        width=width,
        style=style,
        curve=curve,
        head=9,
    )


def cross(ax, xy, size=0.10):
    """Mark an arrow that must be absent."""
    for sign in (1, -1):
        ax.plot(
            [xy[0] - size, xy[0] + size],
            [xy[1] - sign * size, xy[1] + sign * size],
            color=ORANGE,
            lw=3,
            zorder=6,
            solid_capstyle="round",
        )


Z, X, Y, U = (0.62, 0.72), (2.32, 0.72), (4.02, 0.72), (3.17, 1.82)
DASH = (0, (4, 2.5))


def triangle(ax, *, caption_u="unobserved confounder", effect=True):
    """The instrumental-variable diagram shared by the assumptions."""
    node(ax, Z, "Z", INK, "substitution")
    node(ax, X, "X", BLUE, "exposure")
    node(ax, Y, "Y", ORANGE, "outcome")
    if caption_u:
        node(ax, U, "U", PURPLE, caption_u, below=False, hidden=True)
        edge(ax, U, X, color=PURPLE)
        edge(ax, U, Y, color=PURPLE)
    if effect:
        edge(ax, X, Y, color=GREEN, width=2.8)


def dag_iv():
    fig, ax = canvas(4.64, 2.5)
    triangle(ax)
    edge(ax, Z, X)
    ax.text(3.17, 0.90, r"$\theta$", color=GREEN, ha="center", fontsize=13, weight="bold")
    save(fig, "dag_instrument.svg")


def dag_unconfoundedness():
    """Above: the confounder reads the mutated base. Below: it does not."""
    fig, ax = canvas(4.64, 4.9)
    ax.text(0.15, 4.72, "Sequence-dependent: assumption broken", fontsize=10.5, weight="bold")
    ax.text(0.15, 2.22, "Sequence-independent: assumption kept", fontsize=10.5, weight="bold")
    for shift, captions in [(2.44, ("latent factor,", "GC bias")), (0.0, ("site state,", "batch"))]:
        up = lambda p, s=shift: (p[0], p[1] + s - 0.12)  # noqa: E731
        node(ax, up(Z), "Z", INK, "substitution")
        node(ax, up(X), "X", BLUE, "exposure")
        node(ax, up(Y), "Y", ORANGE, "outcome")
        node(ax, up((3.17, 1.66)), "U" if shift else "B", PURPLE, None, hidden=True)
        for row, text in enumerate(captions):
            ax.text(3.53, up((0, 1.76 - 0.2 * row))[1], text, fontsize=9.5, va="center")
        edge(ax, up((3.17, 1.66)), up(X), color=PURPLE)
        edge(ax, up((3.17, 1.66)), up(Y), color=PURPLE)
        edge(ax, up(X), up(Y), color=GREEN, width=2.8)
        edge(ax, up(Z), up(X))
        if shift:
            edge(ax, up(Z), up((3.17, 1.66)), color=ORANGE, width=2.2, style=DASH, curve=-0.18)
            cross(ax, up((1.62, 1.47)))
    save(fig, "dag_unconfoundedness.svg")


def dag_exclusion():
    fig, ax = canvas(4.64, 2.6)
    lift = 0.62
    z, x, y = [(p[0], p[1] + lift) for p in (Z, X, Y)]
    u = (3.17, 2.22)
    node(ax, z, "Z", INK)
    node(ax, x, "X", BLUE)
    node(ax, y, "Y", ORANGE)
    node(ax, u, "U", PURPLE, hidden=True)
    for p, offset, text in [(z, 0, "substitution"), (x, -0.22, "exposure"), (y, 0.16, "outcome")]:
        ax.text(p[0] + offset, p[1] + 0.38, text, ha="center", va="center", fontsize=9.5)
    edge(ax, u, x, color=PURPLE)
    edge(ax, u, y, color=PURPLE)
    edge(ax, z, x)
    edge(ax, x, y, color=GREEN, width=2.8)
    ax.text(1.47, z[1] + 0.14, r"strength $\gamma$", ha="center", fontsize=9.5)
    arrow(
        ax,
        (z[0] + 0.16, z[1] - 0.24),
        (y[0] - 0.16, y[1] - 0.24),
        color=ORANGE,
        width=2.2,
        style=DASH,
        curve=0.28,
        head=9,
    )
    cross(ax, (2.32, 0.60))
    ax.text(
        2.32,
        0.20,
        r"direct effect $\alpha$, not through the exposure",
        ha="center",
        fontsize=9.5,
        color=ORANGE,
    )
    save(fig, "dag_exclusion.svg")


def dag_inside():
    """Balanced, directional and correlated pleiotropy, as MR-Egger sees them."""
    rng = np.random.default_rng(11)
    fig, _ = canvas(4.8, 4.6)
    x = np.linspace(0.5, 3.0, 16)
    basis = np.linalg.qr(np.column_stack([np.ones_like(x), x]))[0]
    noise = rng.normal(0, 0.3, x.size)
    noise -= basis @ (basis.T @ noise)  # scatter that tilts neither line
    cases = [
        (
            "directional, InSIDE holds",
            np.full(x.size, 1.6),
            "the intercept takes it up",
        ),
        ("correlated, InSIDE fails", 0.75 * x, "the slope is biased"),
    ]
    for k, (title, alpha, note) in enumerate(cases):
        ax = inset(fig, 0.62, 2.82 - 2.28 * k, 2.5, 1.5)
        y = 1.0 * x + alpha + noise
        slope, intercept = np.polyfit(x, y, 1)
        line = np.array([0, 3.3])
        ax.plot(line, line, color=GREEN, lw=2.2, ls=(0, (4, 2)))
        ax.plot(line, intercept + slope * line, color=ORANGE, lw=2.2)
        ax.plot(x, y, "o", ms=4.5, color=INK)
        ax.set(xlim=(0, 3.4), ylim=(0, 6.4))
        ax.set_xlabel(r"effect on exposure, $\gamma$", fontsize=9.5)
        ax.set_ylabel("effect on outcome", fontsize=9.5)
        ax.set_title(title, fontsize=10.5, weight="bold", loc="left", pad=5)
        ax.text(3.5, 3.3, "truth", color=GREEN, fontsize=10, weight="bold", va="center")
        ax.text(
            3.5,
            intercept + slope * 3.3,
            "Egger fit",
            color=ORANGE,
            fontsize=10,
            weight="bold",
            va="center",
        )
        ax.text(
            3.5,
            1.0,
            note.replace(" is", "\nis").replace(" takes", "\ntakes"),
            fontsize=9.5,
            va="center",
        )
    save(fig, "inside.svg")


def dag_model():
    """The cell, the data and the model: what is estimated lives in the model."""
    fig, ax = canvas(4.64, 3.1)
    for y0, label, hat in [(2.42, "in the cell", ""), (0.62, "in the model", r"\hat ")]:
        ax.add_patch(
            FancyBboxPatch(
                (1.02, y0 - 0.46),
                3.45,
                0.92,
                boxstyle="round,pad=0.02",
                facecolor=PALE if hat else "white",
                edgecolor=GREY,
                linewidth=1,
            )
        )
        ax.text(
            0.92,
            y0,
            label.replace(" ", "\n", 1),
            ha="right",
            va="center",
            fontsize=10,
            weight="bold",
        )
        z, x, y = (1.42, y0), (2.74, y0), (4.06, y0)
        for p, letter, color in [(z, "Z", INK), (x, "X", BLUE), (y, "Y", ORANGE)]:
            node(ax, p, f"${hat}{letter}$" if hat and letter != "Z" else letter, color)
        edge(ax, z, x)
        edge(ax, x, y, color=GREEN, width=2.8)
        ax.text(
            3.40, y0 + 0.17, rf"${hat}\theta$", color=GREEN, ha="center", fontsize=12, weight="bold"
        )
    arrow(ax, (2.74, 1.88), (2.74, 1.16), color=INK, width=2.2, head=11)
    ax.text(2.90, 1.52, "assay, noise, training", fontsize=9.5, va="center")
    save(fig, "dag_model.svg")


def calibration():
    """Intervals that are too short against intervals that are right."""
    rng = np.random.default_rng(5)
    fig, ax = canvas(4.64, 2.75)
    truth = 0.0
    error = rng.normal(0, 1, 14)
    for k, (scale, title, color) in enumerate(
        [(0.42, "overconfident", ORANGE), (1.0, "calibrated", BLUE)]
    ):
        panel = inset(fig, 0.2 + 2.25 * k, 0.55, 2.0, 1.8)
        half = 1.96 * scale
        miss = np.abs(error - truth) > half
        rows = np.arange(error.size)
        panel.axvline(truth, color=GREEN, lw=2)
        for e, r, m in zip(error, rows, miss, strict=True):
            panel.errorbar(
                e,
                r,
                xerr=half,
                fmt="o",
                ms=4,
                color=color if not m else INK,
                elinewidth=1.5,
                mfc="white" if m else color,
            )
        panel.set(xlim=(-4.2, 4.2), ylim=(-0.9, error.size))
        panel.spines["left"].set_visible(False)
        panel.set_xlabel("effect", fontsize=9.5)
        ax.text(1.2 + 2.25 * k, 2.52, title, ha="center", fontsize=10.5, weight="bold", color=color)
    ax.text(
        2.32,
        0.12,
        "open circles: 95% intervals that miss the truth (green)",
        fontsize=9.3,
        ha="center",
    )
    save(fig, "calibration.svg")


if __name__ == "__main__":
    for draw in (
        figure1,
        figure_idea,
        dag_iv,
        dag_unconfoundedness,
        dag_exclusion,
        dag_inside,
        dag_model,
        calibration,
    ):
        draw()
