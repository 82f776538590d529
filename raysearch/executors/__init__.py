"""Where trials run: in long-lived Ray Train worker groups, or in this process."""
