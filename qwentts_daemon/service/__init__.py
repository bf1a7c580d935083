"""systemd integration: notifications, watchdog, reload, and installation of the units."""
