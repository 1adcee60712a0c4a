"""The files of a report: there, whole, the same again, standing alone; special characters shown as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from pathlib import Path

import made_study
import pytest

from yolo_attn.cli import main
from yolo_attn.study.report import page as page_module
from yolo_attn.study.report import plots, texts, write_report
from yolo_attn.study.report.analysis import analyse
from yolo_attn.study.report.reading import read

TEXTS = ["report.html", "report.md", "report.tex", "report.json", "trials.csv", "variants.csv"]
PLOTS = [f"{name}.{form}" for name in ("differences", "cost", "curves") for form in ("png", "pdf")]
ANSWERS = (
    *("answer", "variants", "controls", "differences", "cost", "both", "sizes", "classes"),
    *("curves", "method", "lacking", "repeat", "machine"),
)
NASTY = r"a_b&50%{c}#$^~\|<i>`*"
CHINESE = ("裂纹", "夹杂 & <b>", "斑块")
ROWS = made_study.variants(("SE", "CBAM"), ("neck",))


def text(folder: Path, name: str = "report.md") -> str:
    return (folder / "report" / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_study.make(tmp_path_factory.mktemp("study") / "small", ROWS, epochs=5)
    write_report(folder)
    return folder


class Page(HTMLParser):
    """What a browser would find in a page: words, tags and where it would look for more."""

    void = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.open = page, list[str]()
        self.tags, self.links, self.ids, self.words = set[str](), list[str](), list[str](), ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [v for k, v in attrs if k.split(":")[-1] in ("src", "href", "data", "action") and v]
        self.ids += [v for k, v in attrs if k == "id" and v]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_finished_study_gives_every_file_and_the_same_bytes_again(small: Path) -> None:
    first = {file.name: file.read_bytes() for file in (small / "report").iterdir()}
    files = write_report(small)
    assert {file.name: file.read_bytes() for file in files} == first
    assert [file.relative_to(small / "report").as_posix() for file in files] == TEXTS + PLOTS
    assert {file.name for file in (small / "report").iterdir()} == {*TEXTS, *PLOTS}
    assert [(small / "report" / f"cost.{form}").read_bytes()[:4] for form in ("png", "pdf")] == [b"\x89PNG", b"%PDF"]
    assert "Nothing: all 15 trials finished." in text(small)


def test_the_page_is_whole_stands_alone_and_answers_first(small: Path) -> None:
    page = Page(text(small, "report.html"))
    assert page.open == [] and {"svg", "table", "figure", "button"} <= page.tags
    assert page.tags.isdisjoint({"link", "img", "iframe", "object"})
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    styles = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page.text)
    assert "http" not in styles and "@import" not in styles
    assert all(target in page.ids for target in re.findall(r"url\(#([^)]*)\)", page.text))
    sections = [name for name in page.ids if name in ANSWERS]
    assert sections == list(ANSWERS)
    assert "@media print" in page.text and "prefers-color-scheme: dark" in page.text
    for answer in json.loads(text(small, "report.json"))["answer"].values():
        assert page_module.typeset(answer) in page.words
    assert "yolo train model=models/yolov8n-se-neck.yaml" in page.words and "AMD EPYC 7763" in page.words


def test_tables_of_the_page_are_narrow_and_keep_their_colours_on_paper(small: Path) -> None:
    page = text(small, "report.html")
    names = re.findall(r'<th scope="row"><span class="dot"[^>]*></span>([^<]*)</th>', page)
    assert {"yolov8n", "yolov8s", "pointwise-neck", "se-neck"} <= set(names) and not any("yolov8n-" in n for n in names)
    rules = {line.split(" {")[0]: line for line in page.splitlines() if line.endswith("}") and " {" in line}
    assert "width: 50%" in rules[".words"] and "print-color-adjust: exact" in rules[".cells td, .dot"]
    assert "width: 4rem" in page[page.index("@media print") :] and "the line is plain" in page


def test_the_latex_table_is_well_formed(small: Path, tmp_path: Path) -> None:
    tex = text(small, "report.tex")
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", tex)
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 5 and {row.count(" & ") for row in rows} == {len(columns) - 1}
    assert tex.count(r"\midrule") == 3 and tex.count("{") == tex.count("}") and tex.count("$") % 2 == 0
    assert r"\label{tab:small}" in tex and r"\caption{" in tex and r"\usepackage{booktabs}" in tex
    for engine in filter(shutil.which, ("pdflatex", "tectonic")):
        document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{report}\end{document}"
        (tmp_path / "paper.tex").write_text(document)
        shutil.copy(small / "report" / "report.tex", tmp_path)
        done = subprocess.run([engine, "paper.tex"], cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout


def nasty(tmp_path: Path) -> Path:
    rows = [*ROWS[:-1], {**ROWS[-1], "name": NASTY.replace("\\", ""), "layer": NASTY}]
    folder = made_study.make(tmp_path / "裂纹_study", rows, names=CHINESE, epochs=5)
    made_study.fail(folder, rows[-1]["name"], 1, f"ValueError: <script>alert(1)</script> {NASTY}")
    return folder


def test_special_and_chinese_names_are_shown_as_they_stand(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = nasty(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(folder)
    assert capfd.readouterr() == ("", "") and caplog.records == []
    html = Page(text(folder, "report.html"))
    assert NASTY.replace("\\", "") in html.words and "夹杂 & <b>" in html.words
    assert html.tags.isdisjoint({"i", "b"}) and html.text.count("<script") == 1
    assert r"a\_b\&50\%\{c\}\#\$\textasciicircum{}\textasciitilde{}\textbar{}\textless{}i\textgreater{}`*" in text(
        folder, "report.tex"
    )
    assert r"a_b&50%{c}#$^~\|\<i>\`\*" in text(folder)
    assert r"\label{tab:study}" in text(folder, "report.tex")


def test_a_model_may_have_any_name(tmp_path: Path) -> None:
    rows = [{**row, "name": row["name"].replace("yolov8n", "@yolov8n")} for row in ROWS]
    write_report(made_study.make(tmp_path / "study", rows, epochs=3))
    assert "from plain @yolov8n, seed by seed" in text(tmp_path / "study", "report.html")


def test_forty_variants_and_many_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, names = [f"Layer{i}" for i in range(20)], [f"class {i}" for i in range(20)]
    rows = made_study.variants(layers)
    analysis = analyse(read(made_study.make(tmp_path / "forty", rows, (0, 1), names=names, epochs=3)))
    with plots.style():
        drawn = {name: draw(analysis, "en") for name, draw in plots.PLOTS.items()}
        assert all(drawn.values())
        shown = [t.get_text() for axes in drawn["cost"].axes for t in axes.texts]  # type: ignore[union-attr]
        drawn["cost"].savefig(tmp_path / "cost.png")  # type: ignore[union-attr]
    assert len(drawn["curves"].axes) == 44  # type: ignore[union-attr]
    assert "yolov8n" in shown and "yolov8s" in shown and len(shown) < 20
    monkeypatch.setattr(plots, "PLOTS", {})
    found = Page(page_module.html(analysis))
    assert "details" in found.tags and found.open == [] and found.words.count("layer19-neck") > 4
    assert "40 attention variants" in texts.markdown(analysis)


def test_the_verb_writes_a_report(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(small, tmp_path / "copy"))
    assert main(["report", str(copy), "--effect", "0.2"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(copy / "report" / name) for name in TEXTS + PLOTS]
    assert json.loads(text(copy, "report.json"))["effect"] == 0.2 and "to see 0.2" in text(copy)


def test_the_verb_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "holds no study.json" in capsys.readouterr().err
    for effect in ("0.0", "inf", "nan"):
        assert main(["report", str(tmp_path), "--effect", effect]) == 1
        assert f"--effect {effect}: give points of mAP above 0" in capsys.readouterr().err
