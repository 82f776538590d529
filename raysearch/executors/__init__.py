"""Where trials run: long-lived Ray Train worker groups, or this process."""
