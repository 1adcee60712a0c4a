"""What setup.cfg cannot say: the YAMLs of cfg/ go into the package, the start-up hook to the root of site-packages.

Two builds of the same files are the same bytes: dates are ``SOURCE_DATE_EPOCH`` or a fixed one, modes do not depend on
the umask, and files stand in the order of their names.
"""

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
HOOK = "yolo_attn.pth"
os.environ.setdefault("SOURCE_DATE_EPOCH", "315532800")  # 1980, the first date that a zip file can hold
os.umask(0o022)


class BuildPy(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            return
        for source, target in self._extra_files():
            self.mkpath(str(Path(target).parent))
            self.copy_file(str(source), target)
        for output in self.get_outputs(include_bytecode=0):
            Path(output).chmod(0o644)

    def get_outputs(self, include_bytecode=1):
        return [*super().get_outputs(include_bytecode), *(target for _, target in self._extra_files())]

    def _extra_files(self):
        build = Path(self.build_lib)
        files = [(ROOT / HOOK, str(build / HOOK))]
        for source in sorted((ROOT / "cfg").rglob("*.yaml")):
            files.append((source, str(build / "yolo_attn" / source.relative_to(ROOT))))
        return files


class BdistWheel(bdist_wheel):
    def egg2dist(self, egginfo_path, distinfo_path):
        super().egg2dist(egginfo_path, distinfo_path)
        for path in Path(distinfo_path).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


class SDist(sdist):
    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        name, date = f"{base_name}.tar.gz", int(os.environ["SOURCE_DATE_EPOCH"])

        def plain(entry):
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = date, 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() else 0o644
            return entry

        with (
            Path(name).open("wb") as raw,
            gzip.GzipFile("", "wb", mtime=date, fileobj=raw) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in [Path(base_dir), *sorted(Path(base_dir).rglob("*"))]:
                archive.add(path, recursive=False, filter=plain)
        return name


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


setup(cmdclass={"bdist_wheel": BdistWheel, "build_py": BuildPy, "editable_wheel": EditableWheel, "sdist": SDist})
