"""Programs that embed the gateway, each on its own: nothing is shared between them but aigw_core."""
