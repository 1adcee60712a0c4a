"""``run.json``: what a training was made of and what came out, in the run's folder, whole at any time.

Written when training starts, after every epoch and at the end. A resumed run goes on with the record of the first.

Schema 1. Numbers that are unknown are ``null``; there is no NaN. Epochs count from 1. Seconds are wall time.

* ``schema``; ``state``: ``running`` (or killed), ``finished``, ``failed``; ``reason`` of a failure; ``name`` and
  ``folder`` of the run; ``task``; ``command``: words of the command line, of the last process.
* ``versions``: of ``yolo-attn``, ``ultralytics``, ``torch``, ``python``.
* ``model``: ``file``; ``pretrained``; ``layers``: for each attention layer its row's ``index``, ``name``,
  ``arguments``, ``place`` as ``yolo-attn graft`` names it, and whether it is ``gated``; for layers in a row's block
  also the block, ``inside``, and their ``number``; ``warnings``: what is wrong with its wiring, in words;
  ``parameters``: number; ``gflops`` at ``imgsz``; ``transferred``: tensors of the base, ``arrived`` of ``total``.
* ``settings``: ``seed``, ``devices``: names; ``world_size``: processes; ``amp``; ``batch``: images of all processes;
  ``imgsz``: pixels; ``epochs``: planned; ``freeze``: what was ``asked`` and the ``rows`` of the model that it means.
* ``data``: ``file``; ``fingerprint``: of the data of each split, or of the data YAML; ``images``, ``instances``:
  number in ``train`` and ``val``.
* ``epochs``: for each finished epoch ``epoch``, ``seconds`` (all), ``train_seconds`` (batches only), ``fitness``.
* ``best_epoch``; ``resumed_at``: first epochs of resumed processes.
* ``metrics``: ``ultralytics``: the host's, of the last validation; ``coco``: the official COCO numbers of the final
  one; ``fp16``: ``stored`` and ``fp32``, mAP50-95 of the best epoch's weights as stored and before rounding, and
  ``file`` with the latter if they are better; or why they were not compared.
* ``times``: ``started``, ``updated``: UTC; ``total_seconds``: of the finished epochs; ``epoch_seconds_median``;
  ``train_images_per_second``: images of the training split by the median of ``train_seconds``.
* ``memory``: bytes, largest so far: ``cuda_reserved``, ``cuda_allocated`` on the first device, ``process``.
* ``problems``: ``epoch`` and ``what``.
"""

FILE = "run.json"
SCHEMA = 1
