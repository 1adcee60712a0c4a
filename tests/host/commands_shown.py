"""The commands that pages show: how each is made small, and what it prints, or which other test runs it.

A command runs as it is shown, with a few words that make it small; they take the place of words of the same key.
"""

from __future__ import annotations

SMALL = "imgsz=64 batch=4 workers=0 plots=False"
TINY = f"epochs=1 amp=False {SMALL}"
STUDY = "layers=se at=backbone seeds=1 controls=none epochs=1 loader_workers=0 imgsz=64 batch=4 device=cpu name=small"
BENCHMARK = "--layers SE --levels P5 --rounds 1 --no-layers -o out"

# command -> words that make it small, and what it prints
FAST = {
    "yolo train model=yolov8n-coordatt.yaml data=my.yaml": (TINY, "Official COCO numbers (bbox)"),
    "yolo train model=yolov8n-cbam.yaml pretrained=yolov8n.pt data=coco8.yaml": (TINY, "new: 10 CBAM (starts as the"),
    "yolo predict model=runs/detect/demo/weights/best.pt source=image.jpg": ("imgsz=64", "image 1/1"),
    "yolo-attn graft yolo11n.yaml --layer CoordAtt --at neck --layer SE --at 4 -o my-yolo11n.yaml": ("", "GFLOPs"),
    "yolo-attn graft yolo11n.yaml --layer ECA --at backbone-blocks --layer CBAM --at neck -o my-yolo11n.yaml": (
        "",
        "3 rows inserted, 24 kept, 4 of them with attention inside",
    ),
    "yolo-attn graft yolov8n.yaml --layer CBAM --at neck --no-gate -o open-yolov8n.yaml": ("", "'gate': False"),
    "yolo-attn check yolov8n-cbam-neck.yaml --strict": ("", "nothing is wrong with its wiring"),
    "yolo-attn doctor": ("", "All is well."),
    "yolo-attn layers": ("", "[-1, 1, CBAM, ["),
    "yolo-attn runs runs": ("", "detect/train"),
    "yolo-attn verify best.pt": ("--formats torchscript --imgsz 64 --source images", "same"),
    "yolo-attn look best.pt image.jpg": ("--imgsz 64", "Open the picture: image-look.png"),
    "yolo-attn look best.pt image.jpg --pixel 40,30 --layer 10 -o pixel.png": ("--imgsz 64", "chosen pixel: (40, 30)"),
    "yolo-attn look best.pt image.jpg --save panels": ("--imgsz 64", "Panels and numbers: panels"),
    "yolo predict model=best.pt source=image.jpg visualize=True": ("imgsz=64", "image 1/1"),
    "yolo-attn bench": ("layers=se at=backbone imgsz=64 rounds=2 formats=none device=cpu", "ratio"),
    "yolo-attn report runs/study/my --effect 1.0": ("", "report.html"),
}
SLOW = {
    "yolo train model=yolo11s-cbam.yaml data=coco8.yaml": (TINY, "yolo_attn.layers.cbam.CBAM"),
    "yolo train model=yolov8n-cbam-stages.yaml pretrained=yolov8n.pt freeze=backbone data=coco8.yaml":
        (TINY, "freeze=backbone counts rows of the base"),
    "yolo train model=yolov8n-caa-stages.yaml data=coco8.yaml": (TINY, "yolo_attn.layers.caa.CAA"),
    "yolo train model=yolo12n-se-neck.yaml data=coco8.yaml": (TINY, "yolo_attn.layers.se.SE"),
    "yolo train model=yolov8n-se-neck-p3.yaml data=coco8.yaml": (TINY, "yolo_attn.layers.se.SE"),
    "yolo train model=yolov8n-cbam-blocks.yaml data=coco8.yaml": (TINY, "{'attention': 'CBAM'}"),
    "yolo train model=yolov8n-coordatt-neck-blocks.yaml pretrained=yolov8n.pt data=coco8.yaml":
        (TINY, "CoordAtt inside 12 C2f, 15 C2f, 18 C2f, 21 C2f (starts as the identity)"),
    "yolo train model=yolo26n-seg-biformer-neck.yaml data=coco8-seg.yaml": (TINY, "yolo_attn.layers.biformer.BiFormer"),
    "yolo train model=yolo12n-obb-caa-stages.yaml data=dota8.yaml": (TINY, "yolo_attn.layers.caa.CAA"),
    "yolo train model=yolov8n-cbam.yaml data=your.yaml pretrained=yolov8n.pt": (TINY, "new: 10 CBAM (starts as the"),
    "yolo train model=yolov8n-coordatt.yaml data=my.yaml imgsz=640 epochs=100": (TINY, "numbers (bbox)"),
    "yolo train model=yolov8n-seg-cbam.yaml data=my.yaml": (TINY, "Official COCO numbers (segm)"),
    "yolo train model=yolo11n-pose-caa.yaml data=my.yaml": (TINY, "Official COCO numbers (keypoints)"),
    "yolo val model=runs/detect/train/weights/best.pt data=my.yaml": (SMALL, "Official COCO numbers (bbox)"),
    "yolo val model=runs/detect/train/weights/best.pt data=my.yaml split=test": (SMALL, "predictions.json"),
    "yolo-attn graft yolo11n.yaml --layer CoordAtt --at neck --layer SE --at 4 --args '[]' --args '{reduction: 8}'"
    " -o my-yolo11n.yaml": ("", "GFLOPs"),
    "yolo-attn bench model=yolo11s layers=cbam,caa at=neck,blocks imgsz=640 formats=onnx,openvino": (
        "layers=caa at=blocks imgsz=64 rounds=2 device=cpu", "ONNX: ratio of the exported model"
    ),
    "yolo-attn study data=my.yaml model=yolov8n layers=cbam,coordatt at=backbone,neck seeds=3 epochs=100": (
        STUDY, "report.html"
    ),
    "yolo-attn study data=my.yaml model=yolov8n layers=eca,cbam,coordatt at=backbone,neck seeds=3 epochs=100": (
        f"{STUDY} --dry-run", "This is the plan; nothing is trained."
    ),
    "yolo-attn study data=my.yaml model=yolov8n layers=cbam,coordatt at=backbone,neck seeds=3 epochs=100 --dry-run": (
        STUDY, "This is the plan; nothing is trained."
    ),
    "yolo-attn study data=bccd.yaml model=yolov8n layers=se,cbam,coordatt,caa,biformer,ema,ela at=backbone,neck seeds=3"
    " epochs=60 imgsz=96 batch=16 nbs=16 loader_workers=0 workers=2": (
        f"{STUDY} --dry-run", "This is the plan; nothing is trained."
    ),
    "yolo train model=yolov8n.yaml data=bccd.yaml epochs=180 imgsz=96 batch=16 nbs=16": (TINY, "Results saved to"),
    "yolo-attn study data=bccd.yaml model=yolov8n pretrained=bccd-yolov8n.pt larger_pretrained=bccd-yolov8s.pt"
    " gate=false layers=se,cbam,coordatt,caa,biformer,ema,ela at=backbone,neck seeds=3 epochs=45 imgsz=96"
    " batch=16 nbs=16 loader_workers=0 workers=2 cache=ram": (
        f"{STUDY} pretrained=yolov8n.pt larger_pretrained=none --dry-run", "from weights of"
    ),
    "yolo-attn study data=bccd.yaml model=yolov8n layers=se,cbam,coordatt,caa,biformer,ema,ela at=backbone,neck"
    " seeds=10 epochs=200 imgsz=640 device=0,1,2,3": (f"{STUDY} --dry-run", "This is the plan; nothing is trained."),
    "yolo-attn study data=neu.yaml model=yolov8n layers=se,cbam,coordatt,caa,biformer,ema,ela at=backbone,neck seeds=3"
    " epochs=25 imgsz=96 batch=16 nbs=16 loader_workers=0 workers=2 cache=ram": (
        f"{STUDY} --dry-run", "This is the plan; nothing is trained."
    ),
    "yolo-attn study my-study.yaml": (f"{STUDY} --dry-run", "yolov8n-se-backbone"),
    "yolo-attn runs runs --csv runs.csv --markdown runs.md --latex runs.tex": ("", "detect/train"),
    "yolo train cfg=runs/detect/train/args.yaml save_dir=again": (TINY, "Results saved to"),
    "yolo-attn runs DIR": ("", "detect/train"),
    "python scripts/train.py --model yolov8n-coordatt.yaml --train-json a.json --train-images images --val-json b.json"
    " epochs=100": (f"--val-images images {TINY}", '"bbox"'),
    "python scripts/val.py --weights best.pt --val-json b.json": (f"--val-images images {SMALL}", '"bbox"'),
    "python scripts/transfer_table.py": ("--families yolov8n --places backbone --others SE --out out", "'ours': 355"),
    "python scripts/transfer_study.py --data DIR": (
        "--layers SE --places backbone --seeds 0 --imgsz 64 --base-epochs 1 --epochs 1 --out out --work work", ""
    ),
    "python scripts/start_study.py --data DIR": (
        "--layers SE --places backbone --seeds 0 --imgsz 64 --base-epochs 1 --epochs 1 --out out --work work", ""
    ),
    "python scripts/speed_study.py --data DIR": (
        "--models yolov8n.yaml --rounds 1 --epochs 2 --imgsz 64 --batch 4 --workers 0 --out out", "images/s"
    ),
    "python scripts/benchmark.py --against DIR --whole --start": (BENCHMARK, "| `yolo version` |"),
    "yolo-attn verify best.pt --formats onnx,openvino --imgsz 640,480x640 --dynamic": (
        "--imgsz 64,32x64 --source images", "64x64, 32x64"
    ),
    "yolo-attn verify best.pt --formats onnx --half --source my-images --export opset=17": (
        "--imgsz 64 --source images", "same"
    ),
    "python scripts/fast_forms.py": (
        "--forms caa.box_mean --rounds 2 --threads 1 --no-steps -o out", "| `caa.box_mean` |"
    ),
}  # fmt: skip
ELSEWHERE = {
    "yolo-attn study runs/study/my": "tests/study/test_study.py::test_trials_run_seed_by_seed_and_once",
    "yolo-attn study runs/study/my --retry":
        "tests/study/test_study.py::test_a_failure_is_kept_and_tried_again_only_when_asked",
    "yolo-attn study runs/study/my seeds=5 layers=caa": "tests/study/test_study.py::test_a_study_may_grow",
    "export YOLO_ATTN_LAYERS=layers.py:MyAttention": "tests/host/test_own_layers.py::test_what_the_page_shows_works",
    "yolo-attn check layers.py:MyAttention": "tests/host/test_own_layers.py::test_what_the_page_shows_works",
    "yolo train model=yolov8n-myattention.yaml data=my.yaml":
        "tests/host/test_own_layers.py::test_what_the_page_shows_works",
    "yolo-attn demo": "tests/host/run/test_demo.py::test_it_trains_as_it_says_and_leaves_an_earlier_run_alone",
    "yolo-attn demo model=yolov8n-cbam-neck.yaml":
        "tests/host/test_notebook.py::test_it_runs",
    "yolo-attn demo model=yolov8n.yaml":
        "tests/host/run/test_demo.py::test_it_trains_as_it_says_and_leaves_an_earlier_run_alone",
    "yolo version": "tests/experiments/test_benchmark_host.py::test_the_start_is_measured_with_and_without_the_hook",
    "yolo-attn convert old.pt -o new.pt":
        "tests/host/model/test_convert_command.py::test_the_stock_command_predicts_validates_exports_and_trains",
    "yolo val model=new.pt data=my.yaml":
        "tests/host/model/test_convert_command.py::test_the_stock_command_predicts_validates_exports_and_trains",
    "yolo-attn convert old.pt -o new.pt --as MyAttention=Polarized":
        "tests/host/model/test_convert_command.py::test_the_command_asks_and_is_answered",
    "yolo-attn convert old.pt -o new.pt --model my.yaml":
        "tests/host/model/test_convert.py::test_a_model_yaml_may_say_what_the_rows_are",
    "yolo-attn strip best.pt":
        "tests/host/model/test_surgery.py::test_strip_gives_back_the_plain_model_and_refuses_where_gates_are_open",
    "yolo train model=yolov8n-cbam.yaml data=my.yaml device=0,1":
        "tests/host/test_command.py::test_the_generated_multi_gpu_worker_knows_the_layers",
    "torchrun --nnodes 2 --node_rank 0 --nproc_per_node 4 --master_addr 10.0.0.1 --master_port 29500 --no-python "
    "yolo train model=yolov8n-cbam.yaml data=my.yaml device=0,1,2,3 batch=256 name=both exist_ok=True":
        "tests/host/run/test_ranks.py::test_two_machines_train_one_model_and_report_once",
    "pip install 'yolo-attn[ray]'": "tests/study/test_ray_driver.py::test_without_ray_it_says_what_to_install",
    "ray start --head": "tests/study/test_ray.py::test_a_cluster_that_is_running_is_used",
    "yolo-attn study data=my.yaml model=yolov8n layers=cbam,coordatt seeds=3 epochs=100 backend=ray workers=8 device=0":
        "tests/study/test_ray.py::test_a_study_on_ray_has_the_numbers_of_one_without",
    "yolo train resume model=runs/detect/train/weights/last.pt":
        "tests/host/run/test_guard.py::test_a_killed_training_resumes",
    "pip install .": "tests/test_packaging.py::test_install_and_uninstall_leave_no_trace",
    "pip uninstall yolo-attn": "tests/test_packaging.py::test_install_and_uninstall_leave_no_trace",
    "python scripts/experiments/gpu.py":
        "tests/experiments/test_gpu.py::test_all_parts_run_through_with_tiny_settings",
    "python scripts/versions.py": "tests/experiments/test_version_matrix.py::test_the_newest_combination_works",
    "python scripts/canary.py": "tests/experiments/test_canary.py::test_the_command_compares_and_records",
    "python scripts/experiments/export_matrix.py --base best.pt --work DIR":
        "tests/experiments/test_export.py::test_the_matrix_is_measured_and_resumed",
    "python scripts/make_cfg.py": "tests/host/model/test_surgery.py::test_drop_ins_and_names_agree",
    "python scripts/record.py FOLDER": "tests/experiments/test_decision.py::test_the_script_records_a_folder",
    "python scripts/make_docs.py": "tests/test_docs.py::test_generated_parts_are_those_of_the_registry_and_the_results",
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/yolo-attn demo":
        "tests/host/run/test_demo.py::test_the_main_command_convinces",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest -n 2":
        "tests/test_docs.py::test_ci_runs_the_test_command_word_for_word",
    # These run the tests themselves: CI does.
    "bash .ci/run": "tests/test_docs.py::test_ci_runs_the_test_command_word_for_word",
    "pip install -e '.[test,lint]'": "tests/test_docs.py::test_ci_runs_the_test_command_word_for_word",
    "python -m pytest": "tests/test_docs.py::test_ci_runs_the_test_command_word_for_word",
}  # fmt: skip
