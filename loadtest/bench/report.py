"""The results as Markdown: a table a scenario, medians over the rounds, ratios to nginx."""

import datetime
from statistics import median

import machine

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"
BASE = "nginx"


def render(results, peers, settings, command):
    """The whole report. `results` is scenario → peer name → list of figures, one a round."""
    parts = [heading(peers, settings, command)]
    for scenario, by_peer in results.items():
        parts.append(f"### {scenario.title} (`{scenario.name}`)\n\n{scenario.about}\n")
        parts.append(table(scenario, by_peer))
    return "\n".join(parts)


def heading(peers, settings, command):
    """What was measured, on what, and how to measure it again."""
    versions = "".join(f"- {peer.name}: {peer.version}\n" for peer in peers)
    return (
        f"Measured on {datetime.date.today().isoformat()} with `{command}`: "
        f"{settings.rounds} rounds of {settings.seconds} s, clients with {settings.threads} thread "
        f"and {settings.connections} connections. Figures are medians over the rounds.\n\n"
        f"- machine: {machine.describe()}\n{versions}"
    )


def table(scenario, by_peer):
    """One scenario: a row a proxy."""
    medians = {name: middle(scenario, rounds) for name, rounds in by_peer.items()}
    titles = ["proxy"]
    for column in scenario.columns:
        titles.append(column.title)
        if column.ratio:
            titles.append(f"to {BASE}")
    lines = [row(titles), row(["---"] + ["---:"] * (len(titles) - 1))]
    for name, figures in medians.items():
        lines.append(row([name, *cells(scenario, figures, medians.get(BASE))]))
    return "\n".join(lines) + "\n"


def middle(scenario, rounds):
    """The median of each column over the rounds."""
    return {
        column.key: median(figures[column.key] for figures in rounds)
        for column in scenario.columns
    }


def cells(scenario, figures, base):
    """The figures of one proxy, each ratio beside its figure."""
    for column in scenario.columns:
        yield column.form.format(figures[column.key])
        if column.ratio:
            known = base and base[column.key]
            yield f"{figures[column.key] / known:.2f}" if known else "-"


def row(texts):
    """One line of a Markdown table."""
    return "| " + " | ".join(texts) + " |"


def write(file, text):
    """Puts the report between its marks in a document, and makes the document where there is none."""
    old = file.read_text(encoding="utf-8") if file.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        raise SystemExit(f"bench: {file} has no lines '{BEGIN}' and '{END}' to write between")
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
