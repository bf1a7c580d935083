"""MQTT: the connection to the broker, commands, and Home Assistant's discovery."""
