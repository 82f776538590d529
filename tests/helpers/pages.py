"""A parsed HTML report: what tests ask of a page."""

from html.parser import HTMLParser
from pathlib import Path


class ReportPage(HTMLParser):
    """Balance of tags, ids, and whatever a browser would load."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source, self.open, self.ids, self.loads, self.text = path.read_text(), [], [], [], []
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        if tag not in ("meta",):
            self.open.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        self.loads += [known[name] for name in ("src", "srcset", "data", "xlink:href") if name in known]
        self.loads += [known["href"]] if tag in ("link", "use", "image") and "href" in known else []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
