"""Announcements: a bounded queue, and their playback on targets."""
