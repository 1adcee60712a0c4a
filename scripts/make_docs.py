"""Write the generated parts of both READMEs and docs/: tables and figures from results/ and the registry."""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

from experiments import decision, evidence, export_table, forms, report, start_study, study_table
from yolo_attn import listing, registry
from yolo_attn.blocks import HOLDERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
CHINESE = ".zh-CN"


def main() -> None:
    """Renew every page."""
    for page in PAGES:
        page.write_text(render(page), encoding="utf-8")


def render(page: Path) -> str:
    """Return a page with its generated parts renewed."""
    text = page.read_text(encoding="utf-8")
    for marker, part in sections(CHINESE in page.name).items():
        pattern = rf"(<!-- {marker} -->(\n?)).*?(<!-- /{marker} -->)"
        text = re.sub(pattern, lambda match, part=part: f"{match[1]}{part}{match[2]}{match[3]}", text, flags=re.S)
    return text


def sections(chinese: bool = False) -> dict[str, str]:
    """Return the text of every generated part by its marker."""
    parts = {"layers": listing.markdown(), "names": names(chinese), "count": str(len(registry.TABLE))}
    parts["holders"] = ", ".join(f"`{name}`" for name in HOLDERS) + "."
    parts["timm"] = listing.timm_markdown()
    parts["differences"] = differences(chinese)
    parts["pasted"] = listing.pasted()
    parts["decision"] = decision.decision_table(ROOT / "results", chinese)
    parts["places"] = decision.places_table(chinese)
    parts["identity"] = decision.starts_as_identity(chinese)
    tables = {
        "demo": demo_chinese if chinese else demo,
        "transfer": functools.partial(evidence.transfer_table, chinese=chinese),
        "transfer-bccd": functools.partial(evidence.study_table, chinese=chinese),
        "start-neu": functools.partial(start_study.start_table, chinese=chinese),
        "speed-bccd": evidence.speed_table,
        "speed-bccd-layers": evidence.speed_table,
        "benchmark": report.benchmark_table,
        "fast-forms": forms.forms_table,
        "export": export_table.export_table,
    }
    for task, table in tables.items():
        content = evidence.load(ROOT / "results", task)
        if content is not None:
            parts[task] = table(content)
    for study in decision.studies(ROOT / "results"):
        parts[study["task"]] = study_table.found_table(study, chinese)
    benchmark = evidence.load(ROOT / "results", "benchmark")
    if benchmark is not None:
        parts["benchmark-summary"] = summary(benchmark)
    return parts


def names(chinese: bool) -> str:
    """Return the README's list of layers."""
    comma, end = ("、", "。") if chinese else (", ", ".")
    return comma.join(f"`{layer.name}`" for layer in registry.TABLE) + end


def differences(chinese: bool) -> str:
    """Return the README's table of what stock Ultralytics does and what happens with yolo-attn."""
    transfer, study = (_rows(task) for task in ("transfer", "transfer-bccd"))
    (tensors,) = [r for r in transfer if (r["model"], r["place"], r["layer"]) == ("yolov8n", "backbone", "CBAM")]
    starts = {r["start"]: r["epoch 0"] for r in study if (r["layer"], r["place"]) in (("none", ""), ("CBAM", "neck"))}
    base, stock, ours = (f"{starts[start]:.3f}" for start in ("base", "stock", "identity"))
    arrived, kept, all_of_them = tensors["stock"], tensors["ours"], tensors["tensors"]
    head = ["写法" if chinese else "you write", "Ultralytics", "Ultralytics + yolo-attn"]
    words = ["`- [-1, 1, CBAM, []]`", "`model=yolo11s-coordatt-neck.yaml`"]
    words += [f"`model=yolov8n-{slug}.yaml pretrained=yolov8n.pt`" for slug in ("cbam", "cbam-neck")]
    words += ["`train: annotations/train.json`"]
    missing = "`FileNotFoundError`"
    if chinese:
        sides = [
            ("`KeyError: 'CBAM'`", "可以训练"),
            (missing, "可以训练：任意模型、任意层、任意位置"),
            (
                f"只载入 {all_of_them} 个张量中的 {arrived} 个",
                f"{all_of_them} 个全部载入" if kept == all_of_them else f"{kept} 个",
            ),
            (f"插入后 mAP50-95 从 {base} 降到 {stock}", f"仍为 {ours}"),
            (missing, "可以训练，并给出官方 COCO 指标"),
        ]
    else:
        sides = [
            ("`KeyError: 'CBAM'`", "trains"),
            (missing, "trains: any model, any layer, any place"),
            (f"{arrived} of {all_of_them} tensors arrive", f"{kept} of {all_of_them}"),
            (f"mAP50-95 falls from {base} to {stock} on insertion", f"stays at {ours}"),
            (missing, "trains, and prints the official COCO numbers"),
        ]
    rows = [[word, *side] for word, side in zip(words, sides, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * 3, *rows])


def demo(content: dict[str, Any]) -> str:
    """Return what the demo ends with and what it took."""
    lines, scores, seconds = _demo(content)
    return (
        f"It ends with its score and a picture:\n\n```text\n{lines}\n```\n\n"
        f"Seeds {_seeds(content)} reached mAP50 {scores}. A run takes {seconds:.0f} s of processor time "
        f"({content['machine']['processor']})."
    )


def demo_chinese(content: dict[str, Any]) -> str:
    """Return the same in Chinese."""
    lines, scores, seconds = _demo(content)
    return (
        f"最后给出得分和一张图片：\n\n```text\n{lines}\n```\n\n"
        f"随机种子 {_seeds(content)} 的 mAP50 依次为 {scores}。"
        f"一次运行占用 {seconds:.0f} 秒处理器时间（{content['machine']['processor']}）。"
    )


def _seeds(content: dict[str, Any]) -> str:
    return ", ".join(str(row["seed"]) for row in content["rows"])


def _demo(content: dict[str, Any]) -> tuple[str, str, float]:
    rows = content["rows"]
    seconds = sorted(row["processor seconds"] for row in rows)[len(rows) // 2]
    return "\n".join(rows[0]["last lines"]), ", ".join(f"{row['mAP50']:.2f}" for row in rows), seconds


def summary(content: dict[str, Any]) -> str:
    """Return one sentence about the first setting of a benchmark."""
    rows = [row for row in content["rows"] if "level" in row]
    if not rows:
        return ""
    setting = [rows[0][key] for key in ("model", "batch", "precision", "compiled")]
    first = [row for row in rows if [row[key] for key in ("model", "batch", "precision", "compiled")] == setting]
    ratios = sorted(row["training ratio"][0] for row in first if "training ratio" in row)
    where = f"at the widths of YOLOv8{setting[0]}, batch {setting[1]}, {setting[2]}"
    machine = content["machine"]
    device = f"{machine['device']} ({machine['processor']}, {machine['threads']} threads)"
    if not ratios:
        return f"Measured on {device}."
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return (
        f"Measured on {device}. On average the pasted versions take {mean:.2f} times as long as ours "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}), {where}."
    )


def _rows(task: str) -> list[dict[str, Any]]:
    content = evidence.load(ROOT / "results", task)
    assert content is not None, f"results/ has no record of {task}"
    return content["rows"]


if __name__ == "__main__":
    main()
