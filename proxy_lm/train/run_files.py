"""Names of what lies in a run folder, for those who write it and those who only look."""

from typing import Final

CONFIG_NAME: Final = "config.yaml"
DEEPSPEED_NAME: Final = "deepspeed.json"
RUN_NAME: Final = "run.json"
METRICS_NAME: Final = "metrics.jsonl"
FAULTS_NAME: Final = "faults.jsonl"
CHECKPOINTS_NAME: Final = "checkpoints"
# A checkpoint being converted for another number of ranks; the next start deletes what a kill leaves of it.
UNIVERSAL_NAME: Final = "universal.tmp"
