"""Tables of answers, written compactly."""


def cases(table: str) -> list[str]:
    """Return the answers of a table. "¦" stands between two, "↵" for a line break, "(empty)" for no text."""
    answers = (answer.strip(" ") for line in table.strip().split("\n") for answer in line.split(" ¦ "))
    return [answer.replace("(empty)", "").replace("↵", "\n").replace(r"\u200b", "\u200b") for answer in answers]
