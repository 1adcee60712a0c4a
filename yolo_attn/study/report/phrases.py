"""Every phrase of the report in English and Chinese, side by side."""

from __future__ import annotations

LANGUAGES = ("en", "zh")

PHRASES: dict[str, tuple[str, str]] = {
    # Numbers and lists
    "points": ("{value} points", "{value} 个百分点"),
    "points_alone": ("{value} points (no interval)", "{value} 个百分点（没有置信区间）"),
    "and": (" and ", "和 "),
    "comma": (", ", "、"),
    "join": (" ", ""),
    "named_value": ("{name} ({value})", "{name}（{value}）"),
    "more_named": ("{names} and {count} more", "{names}等另外 {count} 个"),
    # Metrics and sizes
    "coco.AP": ("COCO AP", "COCO AP"),
    "coco.AP50": ("COCO AP50", "COCO AP50"),
    "coco.AP75": ("COCO AP75", "COCO AP75"),
    "ultralytics.map": ("Ultralytics mAP50-95", "Ultralytics mAP50-95"),
    "ultralytics.map50": ("Ultralytics mAP50", "Ultralytics mAP50"),
    "coco.APs": ("small", "小目标"),
    "coco.APm": ("medium", "中目标"),
    "coco.APl": ("large", "大目标"),
    # Verdicts
    "said": ("{value}: {words}", "{value}：{words}"),
    "better": ("better, beyond chance, by {n} seeds (q {q})", "{n} 个种子下提升显著（q {q}）"),
    "worse": ("worse, beyond chance, by {n} seeds (q {q})", "{n} 个种子下下降显著（q {q}）"),
    "chance": (
        "stands out alone, but may be chance among {family} compared at once (q {q})",
        "单独看显著，但同时比较了 {family} 个变体，可能只是偶然（q {q}）",
    ),
    "noise_needed": (
        "not told from noise by {n} seeds; {needed} would be needed to see {effect}",
        "{n} 个种子下无法与随机波动区分；要看出 {effect} 个百分点的差别需要 {needed} 个种子",
    ),
    "noise": ("not told from noise by {n} seeds", "{n} 个种子下无法与随机波动区分"),
    "noise_small": (
        "not told from noise by {n} seeds; the interval leaves no room for {effect}",
        "{n} 个种子下无法与随机波动区分；置信区间排除了 {effect} 个百分点的差别",
    ),
    "noise_many": (
        "not told from noise by {n} seeds; more than {most} would be needed to see {effect}",
        "{n} 个种子下无法与随机波动区分；要看出 {effect} 个百分点的差别需要超过 {most} 个种子",
    ),
    "single": ("one seed, so no interval and no verdict", "只有一个种子：没有置信区间，不下结论"),
    "constant": (
        "the same by all {n} seeds, so no interval and no verdict",
        "{n} 个种子的差值完全相同：没有波动可估，不下结论",
    ),
    "missing": ("no seed has a score in both", "没有两边都有分数的种子"),
    "left_out": ("{words} (without seeds {seeds})", "{words}（缺种子 {seeds}）"),
    # The answer
    "answer_none": (
        "There is no score to compare yet: {done} of {planned} trials are done.",
        "目前还没有可比较的结果：{planned} 次训练中完成了 {done} 次。",
    ),
    "answer_unfinished": (
        "The study is not complete: {done} of {planned} trials have finished. What follows may still change.",
        "实验尚未完成：{planned} 次训练中完成了 {done} 次，以下结论仍可能改变。",
    ),
    "answer_no_attention": ("No attention layer was compared.", "没有比较任何注意力层。"),
    "answer_no_interval": (
        "No attention layer has an interval against plain {plain}, so none is called better or worse: "
        "an interval needs two seeds or more whose differences are not all the same.",
        "没有任何注意力层相对基线 {plain} 的置信区间，因此不判断优劣：置信区间至少需要两个种子，且差值不能完全相同。",
    ),
    "answer_noise": (
        "By {metric}, none of {count} attention variants is told from plain {plain} with {seeds} seeds.",
        "按 {metric}，{count} 个注意力变体在 {seeds} 个种子下都无法与基线 {plain} 区分。",
    ),
    "answer_noise_one": (
        "By {metric}, {name} is not told from plain {plain} with {seeds} seeds.",
        "按 {metric}，{name} 在 {seeds} 个种子下无法与基线 {plain} 区分。",
    ),
    "answer_better": (
        "By {metric}, better than plain {plain} beyond chance, {better} of {count} attention variants: {names}.",
        "按 {metric}，{count} 个注意力变体中有 {better} 个显著优于基线 {plain}：{names}。",
    ),
    "answer_worse": (
        "By {metric}, worse than plain {plain} beyond chance, {worse} of {count}: {names}.",
        "按 {metric}，显著低于基线 {plain} 的有 {count} 个中的 {worse} 个：{names}。",
    ),
    "answer_chance": (
        "Standing out alone, but perhaps by chance among {family} compared at once: {names}.",
        "单独看显著，但同时比较了 {family} 个变体、可能只是偶然的有：{names}。",
    ),
    "answer_beats_pointwise": (
        "Better also than the pointwise convolution at their place, extra weights without attention: {names}.",
        "同时也显著优于同一位置的逐点卷积（只增加参数，没有注意力）：{names}。",
    ),
    "answer_not_pointwise": (
        "None of these is told from the pointwise convolution at its place, "
        "so the gain may come from the extra weights rather than from attention.",
        "但它们都无法与同一位置的逐点卷积区分，提升可能来自增加的参数，而不是注意力机制。",
    ),
    "answer_seeds": (
        "To see a difference of {effect} points in one variant, about {needed} seeds would be needed, "
        "given the spread seen here.",
        "按目前的波动，要看出单个变体 {effect} 个百分点的差别大约需要 {needed} 个种子。",
    ),
    "answer_seeds_many": (
        "To see a difference of {effect} points in one variant, more than {most} seeds would be needed, "
        "given the spread seen here.",
        "按目前的波动，要看出单个变体 {effect} 个百分点的差别需要超过 {most} 个种子。",
    ),
    "larger": (
        "The next larger scale, {name}, brings {value}{cost}.",
        "换用大一号的 {name} 带来 {value}{cost}。",
    ),
    "larger_noise": (
        "The next larger scale, {name}, is not told from plain: {value}{cost}.",
        "大一号的 {name} 无法与基线区分：{value}{cost}。",
    ),
    "larger_gflops": (" for {ratio} times the GFLOPs", "，计算量（GFLOPs）为 {ratio} 倍"),
    "larger_latency": (
        " for {ratio} times the GFLOPs and {times} times the latency",
        "，计算量（GFLOPs）为 {ratio} 倍，延迟为 {times} 倍",
    ),
    "answer_own": ("Your own model {name}: {verdict}.", "自己的模型 {name}：{verdict}。"),
    # Headings and table heads
    "home": ("A study by yolo-attn {version}", "yolo-attn {version} 实验报告"),
    "title": ("Does attention help here?", "注意力在这里有用吗？"),
    "answer": ("Answer", "结论"),
    "variants": ("Variants", "各变体"),
    "differences": ("Differences from plain", "与基线的差值"),
    "cost": ("Score against cost", "精度与开销"),
    "sizes": ("By object size", "按目标尺寸"),
    "classes": ("By class", "按类别"),
    "both": ("By metric", "按指标"),
    "curves": ("Learning curves", "学习曲线"),
    "method": ("What was compared, and how", "比较了什么，如何比较"),
    "lacking": ("What failed or is missing", "失败与缺失"),
    "repeat": ("Repeat it", "复现"),
    "commands": ("The command of each trial", "每次训练的命令"),
    "machine": ("Versions, data and machine", "版本、数据与机器"),
    "variant": ("Variant", "变体"),
    "seeds": ("Seeds", "种子"),
    "parameters": ("Params, M", "参数量 (M)"),
    "gflops": ("GFLOPs", "GFLOPs"),
    "latency": ("Latency, ms", "延迟 (ms)"),
    "score": ("{metric} ± SD", "{metric} ± 标准差"),
    "difference": ("Difference [95% CI]", "差值 [95% 置信区间]"),
    "verdict": ("Verdict", "结论"),
    "controls": ("Against the controls", "与对照组比较"),
    "vs_pointwise": ("Minus pointwise [95% CI]", "减去逐点卷积 [95% 置信区间]"),
    "vs_larger": ("Minus larger scale [95% CI]", "减去大一号模型 [95% 置信区间]"),
    "plain": ("plain model", "基线模型"),
    "pointwise": ("pointwise convolution", "逐点卷积"),
    "larger_scale": ("larger scale", "大一号模型"),
    "attention": ("attention", "注意力层"),
    "own": ("your own model", "自己的模型"),
    # Captions
    "caption_variants": (
        "All scores are in mAP points (100 × mAP); differences are from plain {plain}, seed by seed. "
        "▲ better and ▼ worse, beyond chance (q < 0.05); ◆ may be chance; ○ not told from noise; – no interval. "
        "Latency in brackets: times plain's.",
        "分数均为 mAP 百分点（100 × mAP），差值为同一种子下相对基线 {plain} 的差。"
        "▲ 显著提升，▼ 显著下降（q < 0.05）；◆ 可能是偶然；○ 无法与随机波动区分；– 没有置信区间。"
        "括号中的延迟为基线的倍数。",
    ),
    "caption_bars": (
        "Bars: 95% interval around the mean; the line is plain.",
        "横条为均值的 95% 置信区间，竖线为基线。",
    ),
    "caption_controls": (
        "Better than the pointwise convolution: attention does more than its parameters. "
        "Worse than the larger scale: if its cost is affordable, it is the better buy.",
        "优于逐点卷积：注意力的作用超过其参数量本身。低于大一号模型：如果能承受其开销，换大一号模型更划算。",
    ),
    "caption_differences": (
        "Mean and 95% interval; small points are seeds. Filled: beyond chance; arrow: the interval goes on. "
        "Controls apart. Dotted: ±{effect}.",
        "均值与 95% 置信区间，小点为各个种子；实心表示显著，箭头表示区间超出图外。对照组单独列出，虚线为 ±{effect}。",
    ),
    "caption_latency": (
        "Mean score against latency of one image. The line joins variants that no cheaper one beats; "
        "the bars are the range over seeds, so neighbours on the line may be equal.",
        "平均精度与单张图片的延迟。折线连接没有被更便宜的变体超过的变体；竖条为各种子的范围，线上相邻的变体可能并无差别。",
    ),
    "caption_gflops": (
        "Mean score against GFLOPs; latency was not measured. The line joins variants that no cheaper one beats; "
        "the bars are the range over seeds, so neighbours on the line may be equal.",
        "平均精度与计算量 (GFLOPs)；未测延迟。折线连接没有被更便宜的变体超过的变体；"
        "竖条为各种子的范围，线上相邻的变体可能并无差别。",
    ),
    "caption_curves": (
        "Ultralytics mAP50-95 on the validation split after each epoch: mean and range over seeds, "
        "as far as all seeds ran; dashed grey: plain. The first fifth of the training may lie below the axis.",
        "每轮训练后验证集上的 Ultralytics mAP50-95：各种子的均值与范围，截至所有种子都跑到的轮数；灰色虚线为基线。"
        "训练前五分之一的曲线可能在坐标轴以下。",
    ),
    "caption_classes": (
        "Difference from plain in Ultralytics mAP50-95 of each class, in points; "
        "bold: beyond chance among all cells of one kind of variant; –: no such objects.",
        "各类别 Ultralytics mAP50-95 与基线的差值（百分点）；"
        "粗体表示在同一种变体的所有格子中仍显著；– 表示没有此类目标。",
    ),
    "caption_sizes": (
        "Difference from plain in COCO's AP of small, medium and large objects, with 95% interval; "
        "bold: beyond chance among all cells of one kind of variant; –: no such objects or no COCO numbers.",
        "COCO 小、中、大目标 AP 与基线的差值及 95% 置信区间；"
        "粗体表示在同一种变体的所有格子中仍显著；– 表示没有此类目标或没有 COCO 结果。",
    ),
    "caption_both": (
        "Plain: mean ± SD over seeds. Others: difference from plain with 95% interval; "
        "bold: beyond chance among variants of one kind in its column.",
        "基线：各种子的均值 ± 标准差；其余：与基线的差值及 95% 置信区间，粗体表示在该列的同一种变体中显著。",
    ),
    # Axes and legends of the plots
    "axis_difference": ("Difference from plain, points of {metric}", "与基线的差值（{metric}，百分点）"),
    "axis_score": ("{metric}, points", "{metric}（百分点）"),
    "axis_latency": ("Latency, ms per image", "延迟（毫秒/张）"),
    "axis_gflops": ("GFLOPs", "GFLOPs"),
    "axis_epoch": ("Epoch", "轮数"),
    "axis_map": ("mAP50-95, points", "mAP50-95（百分点）"),
    # Method
    "method_models": (
        "{count} models on {data}, {epochs} epochs each, image size {imgsz}, {start}, seeds {seeds}: {names}.",
        "{count} 个模型，数据 {data}，各训练 {epochs} 轮，图像尺寸 {imgsz}，{start}，种子 {seeds}：{names}。",
    ),
    "random_start": ("from random weights", "随机初始化"),
    "method_pairing": (
        "Within a seed all models of one scale start from the same values in every weight that they share "
        "and see the same images in the same order; each difference is taken within a seed.",
        "同一种子下，同一尺度的模型共享权重的初值相同，看到的图像及顺序也相同；差值都在同一种子内计算。",
    ),
    "method_checked": (
        "Checked by hash: {same} of {count} finished trials saw the first batches, "
        "and started from the shared weights, of the plain model (a larger scale shares only the batches).",
        "哈希核对：{count} 次完成的训练中，有 {same} 次的首批数据和共享权重初值与基线一致（大一号的模型只核对数据）。",
    ),
    "method_pointwise": (
        "Control: a pointwise (1×1) convolution at the same place, extra weights without attention. "
        "It has about as many parameters as one attention variant there{matched}.",
        "对照：同一位置的逐点 (1×1) 卷积，即只增加参数而没有注意力；参数量与该处的一个注意力变体大致相同{matched}。",
    ),
    "matched": (" ({pairs})", "（{pairs}）"),
    "matched_pair": ("{name}: {matched}", "{name}：{matched}"),
    "method_larger": (
        "Control: the next larger scale, which is what a bigger model brings instead.",
        "对照：大一号的模型，即换用更大的模型能带来什么。",
    ),
    "method_interval": (
        "Intervals are 95% intervals of the mean difference by the paired t test (scipy), each for its variant alone; "
        "the test takes differences over seeds to be roughly normal, which a few seeds cannot show. "
        "They cover what a seed changes, not another split of the data.",
        "区间为配对 t 检验 (scipy) 得到的平均差值 95% 置信区间，每个区间只针对各自的变体；"
        "该检验假设各种子的差值近似正态，少量种子无法验证这一点。"
        "区间只反映种子带来的变化，不反映另一种数据划分。",
    ),
    "method_rate": (
        "A difference is called better or worse, beyond chance, if q is below 0.05. Where several are compared at once "
        "(variants of one kind with one reference by one metric; all classes, all object sizes), "
        "q is the lowest false discovery rate at which it still holds (Benjamini–Hochberg); for one alone it is its p.",
        "q 低于 0.05 才称为优或劣（显著）。"
        "同时比较多个时（同一种变体、同一参照、同一指标；所有类别或所有尺寸合并计算），"
        "q 是该差值仍成立的最低错误发现率 (Benjamini–Hochberg)；只有一个比较时，q 就是 p 值。",
    ),
    "method_family": (
        "{count} attention variants are compared with plain at once: "
        "of those called different, on average at most one in twenty is so by chance.",
        "共有 {count} 个注意力变体同时与基线比较：被判为有差别的变体中，平均至多二十分之一是出于偶然。",
    ),
    "method_power": (
        "Seeds needed are those with which the paired t test, two-sided at 5%, "
        "sees a true difference of {effect} points in 8 of 10 studies, "
        "given the spread seen, for one comparison alone.",
        "所需种子数：按目前的波动，单个比较的双侧 5% 配对 t 检验在 "
        "10 次实验中有 8 次能看出 {effect} 个百分点真实差别的种子数。",
    ),
    "method_spread": (
        "Over all attention variants the differences spread by {spread} points (standard deviation within a variant); "
        "from {n} seeds alone a variant's own spread is known only to within {low} to {high} times, "
        "so take the number of seeds needed as an order of magnitude.",
        "所有注意力变体差值的标准差（变体内）为 {spread} 个百分点；仅凭 {n} 个种子，"
        "单个变体自身的标准差只能确定到 {low} 至 {high} 倍之间，"
        "所以所需种子数只是量级估计。",
    ),
    "method_selection": (
        "Scores are of each run's best epoch on the validation split, as is usual in the field. That split also chose "
        "the epoch, so all scores are a little too high; a claim about new data needs a test split. "
        "The largest of many differences is likely too large as well.",
        "分数取每次训练在验证集上最好的一轮，这是该领域的惯例。由于这一轮也是用验证集选的，所有分数都略偏高；"
        "要对新数据下结论，需要独立的测试集。许多差值中最大的那个也往往偏大。",
    ),
    "method_primary": (
        "Verdicts are by {metric}; all other numbers are shown for completeness.",
        "结论依据 {metric}；其余指标仅供参考。",
    ),
    "method_programs": (
        "COCO AP and Ultralytics mAP50-95 are one measure computed by two programs, so they differ a little.",
        "COCO AP 与 Ultralytics mAP50-95 是同一指标，由两个程序计算，因此略有差别。",
    ),
    "method_seeds": (
        "Only seeds with a score in both models of a comparison count.",
        "每个比较只使用两个模型都有分数的种子。",
    ),
    "method_extended": (
        "Seeds were added after the study began. If what had been seen was the reason, "
        "verdicts look surer than they are.",
        "实验开始后追加过种子。如果是看到已有结果才追加的，结论看起来会比实际更可靠。",
    ),
    # What failed or is missing
    "nothing_lacks": ("Nothing: all {planned} trials finished.", "没有：{planned} 次训练全部完成。"),
    "failed": ("failed: {error}", "失败：{error}"),
    "running": ("not finished, {epochs} epochs so far", "未完成，已训练 {epochs} 轮"),
    "absent": ("not started", "尚未开始"),
    "unusable": ("Left out or not paired: {problem}", "未采用或未配对：{problem}"),
    "no_coco": (
        "No COCO numbers: the data is not in COCO format, or not every trial has them.",
        "没有 COCO 指标：数据不是 COCO 格式，或并非每次训练都有。",
    ),
    "no_cost": ("No latency: the cost of the models was not measured.", "没有延迟：尚未测量各模型的开销。"),
    # Repeat, machine
    "whole_study": ("The whole study:", "整个实验："),
    "made_from": (
        "All numbers come from the plain files of the study's folder; report.json and trials.csv hold them in full, "
        "mAP in points.",
        "所有数字都来自实验文件夹中的文本文件；完整数值见 report.json 和 trials.csv，其中 mAP 为百分点。",
    ),
    "versions": ("Versions", "版本"),
    "data": ("Data", "数据"),
    "images": ("Images, train / val", "图像数（训练 / 验证）"),
    "instances": ("Objects, train / val", "目标数（训练 / 验证）"),
    "fingerprint": ("Fingerprint", "指纹"),
    "processor": ("Processor", "处理器"),
    "cores": ("Cores", "核心数"),
    "devices": ("Trained on", "训练设备"),
    "latency_on": ("Latency on", "延迟测于"),
    "created": ("Started", "开始时间"),
    "hours": ("Training time, hours", "训练用时（小时）"),
    "settings": ("Settings", "设置"),
    "trials_done": ("{done} of {planned} trials", "完成 {done}/{planned} 次训练"),
    "epochs": ("{epochs} epochs", "{epochs} 轮"),
}


def say(key: str, language: str, **values: object) -> str:
    """Return a phrase in a language with its blanks filled."""
    return PHRASES[key][LANGUAGES.index(language)].format(**values)
