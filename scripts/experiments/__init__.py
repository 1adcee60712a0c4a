"""The project's own measurements: what README and docs state, made again by the scripts beside this folder."""
