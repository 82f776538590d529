"""A parsed HTML report, for tests of the page."""

from html.parser import HTMLParser
from pathlib import Path


class ReportPage(HTMLParser):
    """A page's ids, its text and the addresses that a browser would load; its tags must be balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source, self.open, self.ids, self.loads, self.text = path.read_text(), [], [], [], []
        self.scripts: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in ("meta",):
            self.open.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [values[name] for name in ("src", "srcset", "data", "xlink:href") if name in values]
        self.loads += [values["href"]] if tag in ("link", "use", "image") and "href" in values else []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.text.append(data)
