"""What a frontier is, by looking at every pair of the page's rows."""


def strict(rows, x, y):
    rows = [row for row in rows if row["proof"] in ("verified", "simulated")]
    return {a["i"] for a in rows if not any(
        x(b) >= x(a) and y(b) >= y(a) and (x(b) > x(a) or y(b) > y(a)) for b in rows)}


def curves_of(rows):
    curves = {}
    for row in rows:
        curves.setdefault((row["panel"], row["strategy"]), []).append(row)
    return curves.values()


def expected(rows, x=lambda row: row["x"]):
    return set().union(*(strict(curve, x, lambda row: row["y"]) for curve in curves_of(rows)))
