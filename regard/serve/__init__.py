"""The HTTP service and the explorer's page. Nothing below this room knows HTTP."""
