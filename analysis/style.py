"""How things look: the same in every figure and on the page."""

# Okabe and Ito's colours, and a shape each for who sees none; the same in every figure.
STYLES = {
    "helix": ("#0072B2", "o"), "tp": ("#D55E00", "s"), "dcp": ("#009E73", "^"),
    "medha": ("#CC79A7", "D"), "dp_ep": ("#E69F00", "v"), "pp": ("#56B4E9", "P"),
}
OTHER = ("#000000", "X")
INK, GREY = "#222222", "#666666"


def style_of(strategy):
    return STYLES.get(strategy, OTHER)


def letters_of(strategy):
    """Its colour, darker: thin letters on white are to be read."""
    color, _ = style_of(strategy)
    return "#" + "".join(f"{int(color[at:at + 2], 16) * 2 // 3:02x}" for at in (1, 3, 5))


def clean(text, limit=90):
    """One line of it, whatever a file holds."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    return text if len(text) <= limit else text[:limit - 1] + "…"
