"""Environment variables that Ray reads when it is imported. Imports no Ray, so that they can be set before."""

from __future__ import annotations

import os

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # print nothing between our lines; the ledger records that a worker was lost
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the loss of a rank is noticed; Ray's default is 2 s
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's folder is scratch
    "TUNE_WARN_THRESHOLD_S": "30",
}


def set_ray_environment() -> None:
    """Sets the variables for this process and all that Ray starts; what the user has set stays."""
    for variable, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
