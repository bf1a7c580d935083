"""Daemons, brokers, fakes and faults for the tests."""
