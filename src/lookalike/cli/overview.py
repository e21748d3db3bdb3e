"""Texts printed before the options: the overview of all commands, and introductions of the training commands."""

OVERVIEW = """\
lookalike: self-supervised learning of image representations

  lookalike demo                         train on built-in digits and evaluate
  lookalike check DATA                   inspect images, suggest a first command
  lookalike pretrain METHOD DATA         train an encoder on unlabelled images
  lookalike evaluate ENCODER TRAIN TEST  k-NN, linear probe on labelled images
  lookalike report RUN                   write one HTML page with all results
  lookalike help                         this text; COMMAND --help: its options

Train
  demo                            an encoder on digits, in one or two minutes
  pretrain METHOD DATA            an encoder on a folder of unlabelled images
  distill DATA --teacher T        a small encoder that matches a pretrained one
  finetune ENCODER TRAIN [TEST]   a classifier, evaluated on TEST at the end
  compare DATA METHOD...          methods at equal cost, evaluated and ranked
  estimate METHOD DATA            memory, time and largest batch of a training
  slurm -- COMMAND                one of these as a job of a Slurm cluster

Evaluate
  evaluate ENCODER TRAIN TEST     an encoder on labelled folders, by protocol
  predict RUN DATA --out FILE     classes of images, to .csv or .parquet
  embed ENCODER DATA --out FILE   features, to .npz, .parquet or .csv
  export ENCODER --format F       a verified file for other programs: ONNX, timm
  serve ENCODER                   embeddings and predictions over HTTP

Look at data and results
  check DATA                      sizes, classes, duplicates, broken files
  views METHOD DATA               a sheet of augmented views, before training
  show ENCODER DATA --out DIR     attention, patch PCA, nearest neighbours
  report RUN...                   one HTML page: curves, evaluations, map
  plot RUN... --out FILE.png      curves of pretraining and linear probe

Housekeeping
  list methods|backbones|formats  names that commands accept, and their cost
  thin RUN...                     remove checkpoints that are not needed
  doctor                          versions, devices, extras, known problems

ENCODER is a run folder, an encoder.safetensors, an exported .onnx file, an
official weights file of DINO or DINOv2, timm/NAME, torchvision/NAME or
torchhub/NAME.
DATA is a folder (scanned recursively, no labels needed), a list of paths
(text, or .csv, .tsv and .jsonl with columns path and label), archives (.tar,
.zip, 'shard-{000..009}.tar', a folder of them) or tables (.parquet, .arrow)
that are read in place, an array FILE.h5::NAME or FILE.zarr::NAME, or a data
set hf:NAME of the Hugging Face hub.
RUN is a run folder; `predict` needs one that `finetune` wrote.
`lookalike COMMAND --help` lists a command's options; --debug shows where an
error was raised; --version prints the version."""

PRETRAIN = """\
lookalike pretrain METHOD DATA [options]
lookalike pretrain --from run.yaml [options]     METHOD, DATA and all defaults from the file; options override them
lookalike pretrain --resume --out RUN            resume an interrupted run

methods
{methods}

At the end report.html is written to the run folder; --no-report skips it.

`lookalike pretrain METHOD --help` lists the method's own options as well as these:
"""


DISTILL = """\
lookalike distill DATA --teacher TEACHER --backbone STUDENT [options]
lookalike distill --from run.yaml [options]      DATA and all defaults from the file; options override them
lookalike distill --resume --out RUN             resume an interrupted run

TEACHER is a run folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME, such as
timm/vit_base_patch14_dinov2.lvd142m. With --probe TRAIN TEST (labelled folders) teacher and student are evaluated at
the end. Then report.html is written to the run folder; --no-report skips it.
"""

FINETUNE = """\
lookalike finetune ENCODER TRAIN [TEST] [options]
lookalike finetune --from run.yaml [options]     ENCODER, TRAIN, TEST and all defaults from the file
lookalike finetune --resume --out RUN            resume an interrupted run

ENCODER is a run folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME; a copy of it is trained. TRAIN
and TEST are folders with one sub-folder per class, or other labelled DATA. TEST is evaluated once, after the last
epoch. Without TEST the column split of the list TRAIN is used; --holdout 0.2 draws a fifth of TRAIN for testing.
Without --image-size images have the size that the encoder was trained or published at.
--frozen trains a linear probe with crops and flips; --unfreeze-after N trains only the head for the first N epochs.
At the end report.html is written to the run folder; --no-report skips it.
"""

COMPARE = """\
lookalike compare DATA METHOD... --train T --test T [--budget 10min | --epochs N] [--seeds 3] --out DIR

Trains each METHOD with the same network, images and budget, evaluates all encoders and the untrained one on labelled
folders, and ranks them. The same command resumes an interrupted comparison. METHOD is a name from
`lookalike list methods`, or distill with --teacher TEACHER.
Several test sets: --train T1 --test T1 --train T2 --test T2, or one --train for all.
--budget is the time per training; --epochs instead is the number of passes over the images (100 without either).
More methods or seeds, with all other options unchanged, extend the comparison in DIR; --overwrite replaces one that is
complete or has other options. At the end report.html is written to the folder; --no-report skips it.
"""

VIEWS = """\
lookalike views METHOD DATA [--out FILE.png] [options of pretrain METHOD]

Draws the first images and their augmented views, exactly as `pretrain` computes them with the same options.
FILE is views.png without --out; --overwrite replaces it."""

ESTIMATE = """\
lookalike estimate METHOD DATA [--find-batch-size] [options of pretrain METHOD]

Prints the memory of a training at the peak of a step (parameters, gradients, optimizer, banks and queues, views,
activations), the free memory, the time per step and epoch, and the largest batch. Memory is computed from steps of a
few images, the time is measured in the first steps of the training, which is thrown away.
--find-batch-size runs real steps, each in a process of its own, in powers of two and then by bisection."""
