"""systemd: notifications, watchdog, reload, and installing the units."""
