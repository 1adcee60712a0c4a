"""The joints: which functions of the host we replace, with what, and the versions of the host that have them.

A joint is a function ``original -> replacement``, named here as ``module.function`` below ``yolo_attn.host``; it is
imported when the host's module is. This file imports nothing: start-up reads it at the host's first import.
"""

# Versions from the first on and below the second; setup.cfg says the same.
OLDEST, TOO_NEW = (8, 3, 100), (9,)
SUPPORTED = f">={'.'.join(map(str, OLDEST))},<{'.'.join(map(str, TOO_NEW))}"

# Host module -> its functions (or methods) -> their joints, the innermost first. A version that lacks one of the
# functions is one we cannot serve.
JOINTS: dict[str, dict[str, tuple[str, ...]]] = {
    "ultralytics.cfg": {"entrypoint": ("command.entrypoint_joint",)},
    "ultralytics.nn.tasks": {
        "parse_model": ("model.rows.parse_model_joint",),
        "yaml_model_load": ("model.yamls.yaml_model_load_joint", "model.check.yaml_model_load_joint"),
        "torch_safe_load": ("model.foreign.torch_safe_load_joint", "model.kept_rows.torch_safe_load_joint"),
        "DetectionModel.__init__": ("model.forward_errors.detection_model_joint",),
        "BaseModel.load": ("model.transfer.load_joint",),
        "BaseModel.fuse": ("model.fold.fuse_joint",),
    },
    "ultralytics.engine.trainer": {
        "BaseTrainer._do_train": ("run.ranks.do_train_joint", "run.guard.do_train_joint"),
        "BaseTrainer._setup_train": ("run.freeze.setup_train_joint",),
        "BaseTrainer.setup_model": ("run.freeze.setup_model_joint",),
        "BaseTrainer.get_dataset": ("data.builders.get_dataset_joint",),
        "BaseTrainer.save_model": ("run.guard.save_model_joint",),
        "BaseTrainer.final_eval": ("run.guard.final_eval_joint",),
        "BaseTrainer.resume_training": ("run.guard.resume_training_joint",),
        "strip_optimizer": ("run.guard.strip_optimizer_joint",),
    },
    "ultralytics.engine.model": {"Model.load": ("model.transfer.model_load_joint",)},
    "ultralytics.data.utils": {"check_det_dataset": ("data.descriptions.check_det_dataset_joint",)},
    "ultralytics.data.build": {"build_yolo_dataset": ("data.builders.build_yolo_dataset_joint",)},
    "ultralytics.models.rtdetr.train": {"RTDETRTrainer.build_dataset": ("data.builders.build_rtdetr_dataset_joint",)},
    "ultralytics.models.rtdetr.val": {"RTDETRValidator.build_dataset": ("data.builders.build_rtdetr_dataset_joint",)},
    "ultralytics.models.yolo.detect.val": {"DetectionValidator.init_metrics": ("data.builders.init_metrics_joint",)},
}


def is_supported(version: str) -> bool:
    """Return whether a version of the host is one of those we test, such as ``"8.4.190"``."""
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
    return OLDEST <= numbers < TOO_NEW
