"""The Wyoming protocol: server, client, discovery by Zeroconf."""
