"""What setup.cfg cannot say: the YAMLs of cfg/ go into the package, the start-up hook to the root of site-packages."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
HOOK = "yolo_attn.pth"


class BuildPy(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            return
        for source, target in self._extra_files():
            self.mkpath(str(Path(target).parent))
            self.copy_file(str(source), target)

    def get_outputs(self, include_bytecode=1):
        return [*super().get_outputs(include_bytecode), *(target for _, target in self._extra_files())]

    def _extra_files(self):
        build = Path(self.build_lib)
        files = [(ROOT / HOOK, str(build / HOOK))]
        for source in sorted((ROOT / "cfg").rglob("*.yaml")):
            files.append((source, str(build / "yolo_attn" / source.relative_to(ROOT))))
        return files


class EditableWheel(editable_wheel):
    def _select_strategy(self, *args, **kwargs):
        return _PathAndHook()


class _PathAndHook:
    """An editable install as a path: unlike setuptools' own finder it costs nothing at the start of an interpreter."""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None

    def __call__(self, wheel, files, mapping):
        wheel.writestr("__editable__.yolo_attn.pth", f"{ROOT}\n")
        wheel.writestr(HOOK, (ROOT / HOOK).read_bytes())


setup(cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel})
