"""Tables of the decoding errors of a memory."""

from docs.figures.records import record


def held() -> str:
    """A row per order: cycles in a window up to which the error stays below a bound."""
    orders = record("concepts")["frequency"]["orders"]
    rows = ["| order | error below 10 % | error below 1 % | polynomials per cycle, at 10 % |"]
    rows += ["|--:|--:|--:|--:|"]
    for order, results in orders.items():
        most, least = (results["held"][share] for share in ("0.1", "0.01"))
        ratio = int(order) / most
        rows.append(f"| {order} | {most:.1f} cycles | {least:.1f} cycles | {ratio:.1f} |")
    return "\n".join(rows)


def noise() -> str:
    """A row per order: the part of white noise's power that is kept."""
    results = record("concepts")["noise"]
    rows = ["| order / theta | `layer.decode` | best linear read-out | most that is possible |"]
    rows += ["|--:|--:|--:|--:|"]
    for row in results["rows"]:
        share = row["order"] / results["theta"]
        kept = [f"{1 - row[key] ** 2:.0%}" for key in ("decoded", "best", "least")]
        rows.append(f"| {share:.2f} | {' | '.join(kept)} |")
    return "\n".join(rows)


def euler() -> str:
    """A row per order: the shortest window that Euler's method accepts."""
    least = record("concepts")["discretizers"]["least_theta_of_euler"]
    rows = ["| order | shortest theta of `euler` | theta / order |", "|--:|--:|--:|"]
    for order, theta in least.items():
        rows.append(f"| {order} | {theta:,.1f} steps | {theta / int(order):.1f} |")
    return "\n".join(rows)


def half_step() -> str:
    """The error of decoding with the half step and without."""
    row = record("concepts")["half_step"]
    rows = [f"| order {row['order']}, theta {row['theta']}, sines of {row['cycles']} cycles "]
    rows[0] += "| error / signal |"
    rows += ["|---|--:|"]
    for name, place in (("with", "(k + 1/2) / theta"), ("without", "k / theta")):
        rows.append(f"| input of k steps ago read at {place} | {row['errors'][name]:.1e} |")
    return "\n".join(rows)


def weights() -> str:
    """A row per order: difference of weights and polynomials, and energy beyond the window."""
    results = record("concepts")["rows"]
    rows = ["| order | first coefficient | fifth | last | beyond the window |"]
    rows += ["|--:|--:|--:|--:|--:|"]
    for row in results["rows"]:
        apart = [f"{value:.1%}" for value in row["difference"].values()]
        rows.append(f"| {row['order']} | {' | '.join(apart)} | {row['outside']:.2%} |")
    return "\n".join(rows)
