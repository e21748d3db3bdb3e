"""What commands of trainings, and the program itself, say about themselves before their options."""

OVERVIEW = """\
lookalike: self-supervised learning of image representations

  lookalike demo                               no data needed: train on digits and judge, in a minute or two
  lookalike pretrain METHOD DATA [options]     train an encoder on a folder of unlabelled images
  lookalike distill DATA --teacher T [options] train a small encoder to say what a pretrained one says
  lookalike finetune ENCODER TRAIN TEST        turn it into a classifier, and judge that
  lookalike predict RUN DATA --out FILE        the classes of images by such a classifier, to .csv or .parquet
  lookalike evaluate ENCODER TRAIN TEST        judge it on labelled folders: k-NN and linear probe
  lookalike compare DATA METHOD... [options]   train methods at equal cost, judge all, and rank them
  lookalike embed ENCODER DATA --out FILE      one feature vector per image, to .npz, .parquet or .csv
  lookalike show ENCODER DATA --out FOLDER     pictures of where it looks, what it parts, what it takes for alike
  lookalike report RUN...                      one HTML page: verdict, curves, evaluations, a map of the embedding
  lookalike plot RUN... --out FILE.png         the curves of pretraining and of the linear probe as a picture
  lookalike thin RUN...                        remove checkpoints that a finished run does not need
  lookalike check DATA                         what is in it, and the command to begin with for this machine
  lookalike views METHOD DATA                  a sheet of augmented views, to look at before training
  lookalike list methods|backbones [PATTERN]
  lookalike doctor                             versions, devices, extras and known problems, for a bug report

ENCODER is a run's folder, an encoder.safetensors, an official weights file of DINO or DINOv2, timm/NAME,
torchvision/NAME or torchhub/NAME.
DATA is a folder (scanned recursively, no labels needed) or a text file of paths.
`lookalike VERB --help` shows a verb's options; --debug shows where an error came from."""

PRETRAIN = """\
lookalike pretrain METHOD DATA [options]
lookalike pretrain --from run.yaml [options]     the file gives METHOD, DATA and every default; options override it
lookalike pretrain --resume --out RUN            go on with a run that was stopped

methods
{methods}

At the end report.html is written into the run's folder; --no-report leaves it out.

`lookalike pretrain METHOD --help` shows the method's own options beside these:
"""


DISTILL = """\
lookalike distill DATA --teacher TEACHER --backbone STUDENT [options]
lookalike distill --from run.yaml [options]      the file gives DATA and every default; options override it
lookalike distill --resume --out RUN             go on with a run that was stopped

TEACHER is a run's folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME, such as
timm/vit_base_patch14_dinov2.lvd142m. With --probe TRAIN TEST (labelled folders) both are judged at the end.
Then report.html is written into the run's folder; --no-report leaves it out.
"""

FINETUNE = """\
lookalike finetune ENCODER TRAIN TEST [options]
lookalike finetune --from run.yaml [options]     the file gives ENCODER, TRAIN, TEST and every default
lookalike finetune --resume --out RUN            go on with a run that was stopped

ENCODER is a run's folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME; a copy of it is trained. TRAIN
and TEST are folders with one sub-folder per class. TEST is judged once, after the last epoch.
Without --image-size images have the pixels that the encoder was made for.
--frozen trains a linear probe with crops and flips; --unfreeze-after N lets the head learn alone for N epochs.
Then report.html is written into the run's folder; --no-report leaves it out.
"""

COMPARE = """\
lookalike compare DATA METHOD... --train T --test T [--budget 10min | --epochs N] [--seeds 3] --out DIR

Trains each METHOD with the same network, images and budget, judges all encoders and the untrained one on labelled
folders, and ranks them. The same command goes on where it was stopped. METHOD is a name of `lookalike list methods`, or
distill with --teacher TEACHER. Several tests: --train T1 --test T1 --train T2 --test T2, or one --train for all.
--budget is the time of each training, --epochs in its place the passes over the images (100 without either). More
methods or seeds, all else the same, extend the comparison that DIR holds; --overwrite replaces one that is complete or
asked something else. Then report.html is written into the folder; --no-report leaves it out.
"""

VIEWS = """\
lookalike views METHOD DATA [--out FILE.png] [options of pretrain METHOD]

Draws the first images and their augmented views, exactly as `pretrain` with the same options makes them.
FILE is views.png without --out; --overwrite replaces it."""
